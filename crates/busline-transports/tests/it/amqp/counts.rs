//! What an operator is told of a queue is true, also while the broker is busy.

use std::sync::Arc;

use busline_core::link::Link;
use busline_core::transport::{DeleteIf, Role, Session};
use busline_core::{ErrorKind, Message};

use super::broker::Broker;
use super::faults::{Breakable, PATIENCE, TURN, declare, group, link, message, topic};

/// A group with so many messages that nobody has looked at yet.
async fn filled(url: &str, count: usize) -> (Link, Arc<dyn Session>) {
    let link = link(&[url.to_owned()]);
    declare(&link).await;
    let messages: Vec<Message> = (0..count).map(|n| message(&n.to_string())).collect();
    for receipt in link.send(messages.into()).await.unwrap() {
        receipt.await.unwrap();
    }
    let session = link.session(Role::Consume).await.unwrap();
    (link, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_into_a_part_of_a_queue_leaves_all_of_it() {
    let Some(broker) = Broker::shared() else { return };
    for options in ["", "&queue=quorum"] {
        let vhost = broker.vhost();
        let (_link, session) = filled(&vhost.url(&broker.address(), options), 600).await;
        let admin = session.admin().unwrap();
        for part in [300, 10, 450, 300, 1, 599, 300] {
            assert_eq!(admin.peek(&topic(), &group(), None, part).await.unwrap().len(), part);
            assert_eq!(
                admin.groups(Some(&topic())).await.unwrap()[0].lag,
                600,
                "after {part}{options}"
            );
        }
    }
}

/// Suspends the leader of the group's queue for some seconds, which the broker takes for an empty queue.
async fn suspend(breakable: &Breakable, vhost: &str) {
    let leader = format!("list_to_atom(\"{vhost}_{}.{}\")", group(), topic());
    // By the broker itself: its tool takes seconds to start, and on a busy machine longer than anybody waits.
    let wakes = format!("timer:apply_after(4000,sys,resume,[{leader}])");
    breakable.ctl(&["eval", &format!("sys:suspend({leader}),{wakes}.")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_does_not_answer_is_not_said_to_be_empty() {
    // First: another test may have stopped the broker at this moment.
    let _turn = TURN.lock().await;
    let Some(breakable) = Breakable::find() else { return };
    let vhost = breakable.broker.vhost();
    let url = vhost.url(&breakable.broker.address(), "&queue=quorum");
    let (_link, session) = filled(&url, 3).await;
    let admin = session.admin().unwrap();
    // The tool is given the time that it takes, Busline is not.
    suspend(&breakable, &vhost.name).await;
    let counting = tokio::time::timeout(PATIENCE, admin.groups(None));
    assert_eq!(counting.await.unwrap().unwrap()[0].lag, 3);
    suspend(&breakable, &vhost.name).await;
    let empty = DeleteIf { empty: true, ..DeleteIf::default() };
    let (topic, group) = (topic(), group());
    let deleting = tokio::time::timeout(PATIENCE, admin.delete_group(&topic, &group, empty));
    let error = deleting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(admin.groups(None).await.unwrap()[0].lag, 3);
}
