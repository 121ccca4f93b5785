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

/// Suspends the leader of the group's queue, which the broker takes for an empty queue; `busy` runs
/// beside what wakes it up.
async fn busy<T>(breakable: &Breakable, vhost: &str, busy: impl Future<Output = T>) -> T {
    let leader = format!("list_to_atom(\"{vhost}_{}.{}\")", group(), topic());
    breakable.ctl(&["eval", &format!("sys:suspend({leader}).")]).await;
    // The tool takes several times as long to start as the broker waits for an answer.
    let wakes = format!("sys:resume({leader}).");
    let resume = ["eval", wakes.as_str()];
    let (done, ()) = tokio::join!(busy, breakable.ctl(&resume));
    done
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
    let test = async {
        let groups = busy(&breakable, &vhost.name, admin.groups(None)).await.unwrap();
        assert_eq!(groups[0].lag, 3);
        let empty = DeleteIf { empty: true, ..DeleteIf::default() };
        let deleting = async { admin.delete_group(&topic(), &group(), empty).await };
        let error = busy(&breakable, &vhost.name, deleting).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(admin.groups(None).await.unwrap()[0].lag, 3);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}
