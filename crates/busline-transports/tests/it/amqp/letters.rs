//! A letter is in its queue before what it is about is gone from its own.

use std::sync::Arc;

use busline_core::dead::{dead_group, dead_topic};
use busline_core::link::Link;
use busline_core::transport::{DeleteIf, Membership, Role, Session, Subscribe, Subscription};
use busline_core::{Delivery, Message, Topic};

use super::broker::Broker;
use super::faults::{PATIENCE, declare, group, link, message, topic};

/// A member of a group with so many messages.
async fn member(link: &Link, count: usize) -> (Arc<dyn Session>, Box<dyn Subscription>) {
    declare(link).await;
    let messages: Vec<Message> = (0..count).map(|n| message(&n.to_string())).collect();
    for receipt in link.send(messages.into()).await.unwrap() {
        receipt.await.unwrap();
    }
    let session = link.session(Role::Consume).await.unwrap();
    let mut subscribe = Subscribe::new(topic(), Membership::Group(group()));
    subscribe.max_in_flight = u32::try_from(count).unwrap();
    let member = session.subscribe(subscribe).await.unwrap();
    (session, member)
}

/// Rejects so many; all of them are on their way at once, each a moment after the one before.
async fn reject(member: &mut Box<dyn Subscription>, count: usize) {
    let mut rejected = Vec::new();
    while rejected.len() < count {
        for delivery in member.next().await.unwrap().unwrap() {
            rejected.push(delivery.reject("no"));
            tokio::task::yield_now().await;
        }
    }
    for settled in rejected {
        settled.await.unwrap();
    }
}

async fn letters(session: &Arc<dyn Session>, dead: &Topic) -> u64 {
    let groups = session.admin().unwrap().groups(Some(dead)).await.unwrap();
    groups.iter().find(|info| info.group == dead_group()).map_or(0, |info| info.lag)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_while_the_dead_letters_are_declared_is_among_them() {
    let Some(broker) = Broker::shared() else { return };
    let test = async {
        for options in ["", "&queue=quorum"] {
            let vhost = broker.vhost();
            let link = link(&[vhost.url(&broker.address(), options)]);
            let (session, mut member) = member(&link, 300).await;
            reject(&mut member, 300).await;
            let dead = dead_topic(&group(), &topic()).unwrap();
            assert_eq!(letters(&session, &dead).await, 300, "{options}");
        }
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_somebody_deletes_are_declared_again() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let test = async {
        let link = link(&[vhost.url(&broker.address(), "")]);
        let (session, mut member) = member(&link, 3).await;
        let mut deliveries = Vec::new();
        while deliveries.len() < 3 {
            deliveries.extend(member.next().await.unwrap().unwrap());
        }
        let [first, second, third]: [Delivery; 3] = deliveries.try_into().unwrap();
        first.reject("no").await.unwrap();
        let dead = dead_topic(&group(), &topic()).unwrap();
        assert_eq!(letters(&session, &dead).await, 1);
        let other = link.session(Role::Consume).await.unwrap();
        let admin = other.admin().unwrap();
        // By another session: this one does not know.
        admin.delete_group(&dead, &dead_group(), DeleteIf::default()).await.unwrap();
        second.reject("no").await.unwrap();
        third.reject("no").await.unwrap();
        assert_eq!(letters(&session, &dead).await, 2);
    };
    tokio::time::timeout(PATIENCE, test).await.unwrap();
}
