//! A broken operator's view.

use std::sync::Arc;

use busline_core::transport::{Admin, DeleteIf, GroupInfo, Peeked, Session, TopicInfo};
use busline_core::{Error, ErrorKind, GroupName, Offset, Position, Result, Topic};
use futures_util::future::BoxFuture;

use super::flaw::Flaw;
use super::rig::Shared;

#[derive(Debug)]
pub(super) struct BrokenAdmin {
    pub(super) inner: Arc<dyn Session>,
    pub(super) shared: Arc<Shared>,
}

impl BrokenAdmin {
    fn sound(&self) -> Result<&dyn Admin> {
        let none = || Error::new(ErrorKind::Refused, "there is no admin");
        self.inner.admin().ok_or_else(none)
    }

    /// What does not exist may be no error.
    fn found<T: Default>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error)
                if self.shared.has(Flaw::FindsEverything)
                    && error.kind() == ErrorKind::NotFound =>
            {
                Ok(T::default())
            }
            result => result,
        }
    }

    fn condition(&self, condition: DeleteIf) -> DeleteIf {
        if self.shared.has(Flaw::DeletesAnyway) { DeleteIf::default() } else { condition }
    }
}

impl Admin for BrokenAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        Box::pin(async move {
            let mut topics = self.sound()?.topics().await?;
            if self.shared.has(Flaw::ListsUnsorted) {
                topics.reverse();
            }
            Ok(topics)
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        Box::pin(async move {
            let mut groups = self.sound()?.groups(topic).await?;
            if self.shared.has(Flaw::HidesInFlight) {
                groups.iter_mut().for_each(|group| group.in_flight = 0);
            }
            if self.shared.has(Flaw::HidesMembers) {
                groups.iter_mut().for_each(|group| group.members = 0);
            }
            Ok(groups)
        })
    }

    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        Box::pin(async move {
            let mut peeked = self.found(self.sound()?.peek(topic, group, from, limit).await);
            if self.shared.has(Flaw::PeeksBackwards) {
                peeked.iter_mut().for_each(|peeked| peeked.reverse());
            }
            if self.shared.has(Flaw::PeekSettles) {
                self.sound()?.purge(topic, group).await?;
            }
            peeked
        })
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.shared.has(Flaw::ResetsNothing) {
                return Ok(());
            }
            self.found(self.sound()?.reset_group(topic, group, to).await)
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            if self.shared.has(Flaw::PurgesNothing) {
                let all = self.sound()?.peek(topic, group, None, usize::MAX).await?;
                return Ok(all.len() as u64);
            }
            self.found(self.sound()?.purge(topic, group).await)
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.shared.has(Flaw::RoutesToTheDeleted) {
                self.shared.notes().deleted = true;
            }
            let condition = self.condition(condition);
            self.found(self.sound()?.delete_group(topic, group, condition).await)
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.shared.has(Flaw::DeletesNoTopics) && condition == DeleteIf::default() {
                return Ok(());
            }
            let condition = self.condition(condition);
            self.found(self.sound()?.delete_topic(topic, condition).await)
        })
    }
}
