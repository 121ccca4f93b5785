//! Groups from being declared to being gone: configuration, position, deletion, collection.

use std::path::Path;

use crate::group::tests::world::{World, range};
use crate::storage::Storage;
use crate::{DeleteIf, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Settlement, Unsettled};

const ACK: Settlement = Settlement::Ack;

#[test]
fn declaring_again_changes_nothing_and_says_so() {
    let world = World::new();
    world.publish_count(3);
    let spec = GroupSpec { start: 2, ..World::spec("g") };
    let first = Group::declare(&world.log, &spec, &world.options, world.now).unwrap();
    assert!(first.created);
    let other = world.other();
    let spec = GroupSpec { config: b"other", start: 0, ..World::spec("g") };
    let second = Group::declare(&other.log, &spec, &other.options, other.now).unwrap();
    assert!(!second.created);
    assert_eq!(second.group.config().unwrap().bytes, b"all");
    assert_eq!(second.group.floor().unwrap(), 2);
    assert_eq!(world.log.groups().unwrap(), ["g"]);
}

#[test]
fn bad_declarations_name_what_is_wrong_and_leave_nothing() {
    let world = World::new();
    let next = world.publish(&["a"]);
    let check = |spec: GroupSpec<'_>, kind: ErrorKind, says: &str| {
        let error = Group::declare(&world.log, &spec, &world.options, world.now).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(world.log.groups().unwrap(), [""; 0]);
    };
    let spec = World::spec("g");
    check(GroupSpec { name: "", ..spec }, ErrorKind::Limit, "name");
    check(GroupSpec { name: &"x".repeat(300), ..spec }, ErrorKind::Limit, "230");
    check(GroupSpec { config: &vec![0; (1 << 20) + 1], ..spec }, ErrorKind::Limit, "1048577");
    check(GroupSpec { start: 9, ..spec }, ErrorKind::Beyond { tail: next }, "position 9");
    check(GroupSpec { lifetime: Lifetime::Ephemeral, ..spec }, ErrorKind::Conflict, "ephemeral");
    let error = Group::open(&world.log, "g", &world.options, world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let delete = Group::delete(&world.log, "g", DeleteIf::default(), world.now).unwrap_err();
    assert_eq!(delete.kind(), ErrorKind::NotFound);
}

#[test]
fn any_name_makes_a_group_of_its_own() {
    let world = World::new();
    let names = ["..", "a/b", "a b", "Ä", "ä", "%41", "A", "a"];
    for name in names {
        world.declare(name);
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(world.log.groups().unwrap(), sorted);
    for name in names {
        assert_eq!(world.open(name).info(world.now).unwrap().name, name);
    }
}

#[test]
fn members_learn_of_a_new_configuration_before_they_claim() {
    let world = World::new();
    world.publish(&["a", "b"]);
    let other = world.other();
    let mut member = other.join("g");
    let group = world.declare("g");
    assert_eq!(group.config().unwrap().epoch, 0);
    assert!(other.rings(|| assert!(group.set_config(b"b only", Some(0), world.now).unwrap())));
    assert!(!group.set_config(b"late", Some(0), world.now).unwrap(), "compare and set");
    let (outcome, handed) = other.claim_where(&mut member, 9, &|_, _| true).unwrap();
    assert!(outcome.config_changed);
    assert_eq!(handed, []);
    let config = member.accept_config().unwrap();
    assert_eq!((config.epoch, config.bytes.as_slice()), (1, b"b only".as_slice()));
    let (outcome, handed) = other.claim_where(&mut member, 9, &|key, _| key == b"b").unwrap();
    assert!(!outcome.config_changed);
    assert_eq!(handed, [(1, 1, "b".to_owned())]);
}

#[test]
fn a_reset_moves_running_members() {
    let world = World::new();
    world.publish_count(5);
    let other = world.other();
    let mut member = other.join("g");
    let (claim, handed) = other.claim(&mut member, 3);
    assert_eq!(handed.len(), 3);
    assert_eq!(other.settle(member.group(), claim, range(0, 0), ACK), []);
    let group = world.open("g");
    assert!(other.rings(|| group.reset(1, world.now).unwrap()));
    assert_eq!(other.settle(member.group(), claim, range(1, 2), ACK), [range(1, 2)]);
    let back = other.seqs(&mut member, 9);
    assert_eq!(back, [(1, 1), (2, 1), (3, 1), (4, 1)], "attempts are counted anew");
    group.reset(world.log.next_seq(), world.now).unwrap();
    assert_eq!(other.seqs(&mut member, 9), []);
    world.publish(&["new"]);
    assert_eq!(other.seqs(&mut member, 9), [(5, 1)]);
    let error = group.reset(7, world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Beyond { tail: 6 });
    assert_eq!(group.info(world.now).unwrap().counters.acked, 1);
}

#[test]
fn deleting_ends_members_and_the_name_begins_anew() {
    let world = World::new();
    world.publish_count(3);
    let other = world.other();
    let mut member = other.join("g");
    let (claim, _) = other.claim(&mut member, 2);
    let unused = DeleteIf { unused: true, empty: false };
    let error = Group::delete(&world.log, "g", unused, world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("1 members"), "{error}");
    let empty = DeleteIf { unused: false, empty: true };
    let error = Group::delete(&world.log, "g", empty, world.now).unwrap_err();
    assert!(error.to_string().contains("2 records are unsettled and 1 were not"), "{error}");
    assert!(other.rings(|| {
        Group::delete(&world.log, "g", DeleteIf::default(), world.now).unwrap();
    }));
    let error = other.claim_where(&mut member, 1, &|_, _| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let item = crate::Settle { claim, seqs: range(0, 1), how: ACK };
    let error = member.group().settle(&[item], other.now, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(world.log.groups().unwrap(), [""; 0]);
    let mut fresh = world.join("g");
    assert_eq!(world.seqs(&mut fresh, 9), [(0, 1), (1, 1), (2, 1)]);
    // The old handles still know that theirs is gone, and do not touch the new one.
    let error = member.take_over(other.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(member.leave(other.now).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fresh.group().info(world.now).unwrap().claimed, 3);
    let files = world.storage.list(Path::new("/log/groups")).unwrap();
    assert_eq!(files.len(), 2, "a lock and one group: {files:?}");
}

#[test]
fn deletion_checks_pass_when_nobody_needs_it() {
    let world = World::new();
    world.publish_count(2);
    let mut member = world.join("g");
    let (claim, handed) = world.claim(&mut member, 9);
    world.ack(&member, claim, &handed);
    drop(member);
    let both = DeleteIf { unused: true, empty: true };
    Group::delete(&world.log, "g", both, world.now).unwrap();
}

#[test]
fn what_a_dead_process_left_half_declared_or_half_deleted_is_finished() {
    let world = World::new();
    world.publish_count(1);
    // A directory whose group was never created: the log is there, its first record is not.
    let group = world.declare("half");
    drop(group);
    let count = |change: &dyn Fn(&World)| {
        // How many changes of the medium it takes, on a copy.
        let copy = world.storage.snapshot();
        let copy = World::on(&copy);
        copy.storage.start_record();
        change(&copy);
        copy.storage.take_record().len() as u64
    };
    let declare = |world: &World| {
        let spec = World::spec("new");
        let _ = Group::declare(&world.log, &spec, &world.options, world.now);
    };
    let delete = |world: &World| {
        let _ = Group::delete(&world.log, "half", DeleteIf::default(), world.now);
    };
    for (change, name) in [(&declare as &dyn Fn(&World), "new"), (&delete, "half")] {
        let steps = count(change);
        assert!(steps > 3);
        for step in 0..steps {
            let copy = World::on(&world.storage.snapshot());
            let doomed = copy.other();
            doomed.storage.kill_after(step, 7);
            change(&doomed);
            doomed.storage.kill();
            // Whatever stands there, the name can be used, and works.
            let mut member = copy.join(name);
            assert_eq!(copy.seqs(&mut member, 9), [(0, 1)], "{name} died at {step}");
            member.leave(copy.now).unwrap();
            Group::delete(&copy.log, name, DeleteIf::default(), copy.now).unwrap();
            copy.log.collect_groups(copy.now).unwrap();
            let files = copy.storage.list(Path::new("/log/groups")).unwrap();
            assert!(!files.iter().any(|file| file.starts_with(".gone")), "{files:?}");
        }
    }
}

#[test]
fn what_a_dead_process_left_of_a_group_that_nobody_will_declare_again_is_collected() {
    let world = World::new();
    let spec = GroupSpec { lifetime: Lifetime::Ephemeral, ..World::spec("once") };
    let join = |world: &World| {
        Group::declare_and_join(&world.log, &spec, &world.options, world.now).map(drop)
    };
    for step in 0.. {
        let copy = World::on(&world.storage.snapshot());
        let doomed = copy.other();
        doomed.storage.kill_after(step, 7);
        let finished = join(&doomed).is_ok();
        doomed.storage.kill();
        copy.log.collect_groups(copy.now).unwrap();
        assert_eq!(copy.log.groups().unwrap(), [""; 0], "died at {step}");
        let files = copy.storage.list(Path::new("/log/groups")).unwrap_or_default();
        assert!(files.iter().all(|file| file == ".lock"), "died at {step}: {files:?}");
        if finished {
            assert!(step > 5, "{step}");
            break;
        }
    }
}

#[test]
fn a_group_that_lost_the_file_that_says_so_is_damaged_and_not_collected() {
    let world = World::new();
    drop(world.declare("g"));
    let dir = crate::group::names::find(&world.log, "g").unwrap().unwrap();
    world.storage.remove(&dir.join("FORMAT")).unwrap();
    let before = world.storage.list(&dir).unwrap();
    let error = world.log.collect_groups(world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(world.storage.list(&dir).unwrap(), before);
}

#[test]
fn ephemeral_groups_go_with_their_last_member() {
    let world = World::new();
    let spec = GroupSpec { lifetime: Lifetime::Ephemeral, ..World::spec("tick") };
    let other = world.other();
    let (declared, _member) =
        Group::declare_and_join(&other.log, &spec, &other.options, other.now).unwrap();
    assert!(declared.created);
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0]);
    world.declare("stays");
    other.storage.kill();
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["tick"]);
    assert_eq!(world.log.groups().unwrap(), ["stays"]);
}

#[test]
fn idle_groups_expire_once_nobody_was_there_for_long() {
    let mut world = World::new();
    let spec = GroupSpec { lifetime: Lifetime::Idle { us: 1_000 }, ..World::spec("g") };
    let group = Group::declare(&world.log, &spec, &world.options, world.now).unwrap().group;
    let other = world.other();
    let _member = other.join("g");
    world.pass(5_000);
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0], "a member lives");
    other.storage.kill();
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0], "it was used until now");
    world.pass(999);
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0]);
    world.pass(1);
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["g"]);
    assert_eq!(group.floor().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn being_idle_is_measured_by_time_that_passes_not_by_a_clock_that_is_set() {
    const DAY_US: i64 = 86_400_000_000;
    let mut world = World::new();
    let spec = GroupSpec { lifetime: Lifetime::Idle { us: 1_000_000 }, ..World::spec("g") };
    let declare =
        |world: &World| Group::declare(&world.log, &spec, &world.options, world.now).unwrap();
    declare(&world);
    // Set forward: nothing has passed.
    world.now.wall_us += DAY_US;
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0]);
    // Set back: what passes counts all the same, and looking is no activity.
    world.now.wall_us -= 2 * DAY_US;
    for _ in 0..2 {
        world.pass(499_999);
        assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0]);
    }
    world.pass(2);
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["g"]);
    // While the machine is suspended only the boot clock goes on.
    declare(&world);
    world.now.boot_us += 1_000_000;
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["g"]);
}

#[test]
fn over_a_restart_being_idle_is_measured_by_the_wall_clock() {
    let mut world = World::new();
    let spec = GroupSpec { lifetime: Lifetime::Idle { us: 1_000_000 }, ..World::spec("g") };
    Group::declare(&world.log, &spec, &world.options, world.now).unwrap();
    // Restarted every 300 ms: to look once a boot must not keep it for ever.
    for boot in 1..=3 {
        world.now.boot_id += 1;
        world.now.boot_us = 10;
        world.now.wall_us += 300_000;
        assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0], "boot {boot}");
    }
    world.now.boot_id += 1;
    world.now.wall_us += 100_000;
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["g"]);
    // A clock that is years behind after the restart: as long as this boot lasts, at least.
    Group::declare(&world.log, &spec, &world.options, world.now).unwrap();
    world.now.boot_id += 1;
    world.now.boot_us = 999_999;
    world.now.wall_us = 0;
    assert_eq!(world.log.collect_groups(world.now).unwrap(), [""; 0]);
    world.now.boot_us += 1;
    assert_eq!(world.log.collect_groups(world.now).unwrap(), ["g"]);
}

#[test]
fn the_floor_is_what_the_slowest_group_needs() {
    let world = World::new();
    assert_eq!(world.log.groups_floor(world.now).unwrap(), None);
    world.publish_count(10);
    let mut fast = world.join("fast");
    let mut slow = world.join("slow");
    let (claim, handed) = world.claim(&mut fast, 9);
    world.ack(&fast, claim, &handed);
    let (claim, _) = world.claim(&mut slow, 9);
    world.settle(slow.group(), claim, range(0, 3), ACK);
    world.settle(slow.group(), claim, range(5, 8), ACK);
    assert_eq!(fast.group().floor().unwrap(), 9);
    assert_eq!(slow.group().floor().unwrap(), 4);
    assert_eq!(world.log.groups_floor(world.now).unwrap(), Some(4));
}

#[test]
fn records_removed_by_retention_are_settled_when_they_are_missed() {
    let world = World::new();
    let mut member = world.join("g");
    for at in 0..200 {
        let value = format!("{at:0>100}");
        world.publish(&[&value]);
    }
    let (claim, handed) = world.claim(&mut member, 60);
    assert_eq!(handed.len(), 60);
    let release = Settlement::Release { counted: true };
    world.settle(member.group(), claim, range(0, 59), release);
    world.log.remove_before(150).unwrap();
    let first = world.log.first_seq();
    assert!((61..=150).contains(&first), "{first}");
    // What a scanner has open may still be read; what it has not is gone.
    let mut seqs = Vec::new();
    loop {
        let (outcome, handed) = world.claim_where(&mut member, 1_000, &|_, _| true).unwrap();
        seqs.extend(handed.iter().map(|of| (of.0, of.1)));
        if !outcome.more {
            break;
        }
    }
    seqs.retain(|&(seq, _)| seq >= first);
    assert_eq!(seqs, (first..200).map(|seq| (seq, 1)).collect::<Vec<_>>());
    let info = member.group().info(world.now).unwrap();
    assert_eq!(info.counters.vanished, 60);
    // A position that was removed is the first that is there.
    member.group().reset(3, world.now).unwrap();
    assert_eq!(member.group().floor().unwrap(), first);
}

#[test]
fn looking_touches_nothing() {
    let mut world = World::new();
    world.publish(&["a0", "a1", "b2", "a3", "b4", "a5"]);
    let mut member = world.join("g");
    let (claim, _) = world.claim(&mut member, 4);
    let group = member.group().clone();
    world.settle(&group, claim, range(0, 0), ACK);
    world.settle(&group, claim, range(1, 1), Settlement::Park { delay_us: 77 });
    world.settle(&group, claim, range(2, 2), Settlement::Release { counted: true });
    let peek = |from, limit| {
        let mut seen = Vec::new();
        group
            .peek(from, limit, &|key, _| key == b"a", &mut |peeked| {
                seen.push((peeked.seq, peeked.attempts, peeked.state));
            })
            .unwrap();
        seen
    };
    let due_us = world.now.boot_us + 77;
    let all = [
        (1, 1, Unsettled::Parked { due_us }),
        (2, 1, Unsettled::Ready),
        (3, 1, Unsettled::Claimed { member: member.id() }),
        (5, 0, Unsettled::New),
    ];
    assert_eq!(peek(0, 9), all);
    assert_eq!(peek(2, 2), all[1..3]);
    assert_eq!(peek(4, 9), all[3..]);
    assert_eq!(peek(0, 0), []);
    assert_eq!(peek(6, 9), []);
    world.pass(10);
    let info = group.info(world.now).unwrap();
    assert_eq!((info.ready, info.parked, info.claimed, info.lag), (1, 1, 1, 2));
    assert_eq!((info.floor, info.cursor, info.oldest_seq), (1, 4, Some(1)));
    assert_eq!(info.oldest_us, Some(1_000_000));
    assert_eq!((info.created_us, info.active_us), (1_000_000, 1_000_000));
    assert!(info.journal_bytes > 0);
    assert_eq!(group.info(world.now).unwrap(), info);
}

#[test]
fn a_group_of_another_log_is_refused() {
    let world = World::new();
    world.declare("g");
    drop(world.declare("g"));
    let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(world.storage.clone());
    let dir = Path::new("/second");
    let options = crate::Options::default();
    let second = crate::Log::create(storage, dir, b"", &options, 1).unwrap();
    world.storage.create_dir_all(&dir.join("groups")).unwrap();
    let from = crate::group::names::find(&world.log, "g").unwrap().unwrap();
    let to = dir.join("groups").join(from.file_name().unwrap());
    world.storage.rename(&from, &to).unwrap();
    let error = Group::open(&second, "g", &GroupOptions::default(), world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign);
}

#[test]
fn a_log_opened_for_reading_shows_its_groups_and_changes_none() {
    let world = World::new();
    world.publish_count(3);
    let spec = GroupSpec { lifetime: Lifetime::Ephemeral, ..World::spec("gone") };
    let other = world.other();
    let (declared, member) =
        Group::declare_and_join(&other.log, &spec, &other.options, other.now).unwrap();
    let mut one = world.join("g");
    assert_eq!(world.seqs(&mut one, 2).len(), 2);
    drop((declared, member));
    let options = crate::Options { access: crate::Access::ReadOnly, ..Default::default() };
    let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(world.storage.process());
    let log = crate::Log::open(storage, Path::new("/log"), &options, 1).unwrap();
    assert_eq!(log.groups().unwrap(), ["g", "gone"]);
    assert_eq!(log.groups_floor(world.now).unwrap(), Some(0));
    assert_eq!(log.collect_groups(world.now).unwrap(), [""; 0]);
    let group = Group::open(&log, "g", &world.options, world.now).unwrap();
    let info = group.info(world.now).unwrap();
    assert_eq!((info.claimed, info.lag, info.members[0].alive), (2, 1, true));
    let error = group.join(world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    let error = Group::declare(&log, &World::spec("new"), &world.options, world.now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

#[test]
fn who_joins_buries_the_dead() {
    let world = World::new();
    let other = world.other();
    let _idle = other.join("g");
    other.storage.kill();
    let member = world.join("g");
    let info = member.group().info(world.now).unwrap();
    assert_eq!((info.members.len(), info.counters.members_died), (1, 1));
    let dir = &member.group().shared.dir;
    let files = world.storage.list(&dir.join("members")).unwrap();
    assert_eq!(files, [format!("{:016x}", member.id())]);
}
