//! What is put back: as it was, whatever it is.

use busline_core::dead::HEADER_REDRIVES;
use busline_core::transport::Dialect;
use busline_core::{Headers, Message};
use lapin::BasicProperties;
use lapin::types::ShortString;

use super::mapping::{self, USER_ID, Wire, With};

/// What is put back, as it was, whatever it is: bounds of ours are for what programs make. `None` for all
/// else.
///
/// The broker takes the id of a user from nobody else: then it is what programs of this convention take it for too, a
/// header.
pub(super) fn put_back(dialect: Dialect, user: &str, message: &Message) -> Option<Wire> {
    if dialect == Dialect::Busline {
        let is_back = message.headers.get(HEADER_REDRIVES).is_some();
        return is_back.then(|| mapping::encode_letter(dialect, message).ok()).flatten();
    }
    let came = message.properties.native.as_ref()?.get::<BasicProperties>()?;
    let mut as_it_came = Message { headers: Headers::new(), ..message.clone() };
    as_it_came.properties = mapping::standard(came);
    mapping::read_eventail(&mut as_it_came, came);
    as_it_came.properties.native.clone_from(&message.properties.native);
    // Whoever changed it publishes something else.
    if as_it_came != *message {
        return None;
    }
    let mut properties = came.clone();
    if let Some(other) = came.user_id().as_ref().filter(|id| id.as_str() != user) {
        tracing::warn!(user_id = %other, "the user of what is put back is not that of this connection: it becomes a header");
        let mut headers = came.headers().clone().unwrap_or_default();
        if !headers.contains_key(USER_ID) {
            headers.insert(USER_ID.into(), super::names::text(other.as_str()));
        }
        properties = Without { user: true, ..Without::default() }.of(came).with_headers(headers);
    }
    mapping::wire(message, properties).ok()
}

/// A copy without some properties: they can be set, and not be taken away.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Without {
    pub(super) expiration: bool,
    pub(super) user: bool,
}

impl Without {
    pub(super) fn of(self, of: &BasicProperties) -> BasicProperties {
        let mut properties = BasicProperties::default();
        let kept = |drops: bool, text: &Option<ShortString>| text.clone().filter(|_| !drops);
        let texts: [(Option<ShortString>, With); 10] = [
            (of.message_id().clone(), BasicProperties::with_message_id),
            (of.correlation_id().clone(), BasicProperties::with_correlation_id),
            (of.reply_to().clone(), BasicProperties::with_reply_to),
            (of.content_type().clone(), BasicProperties::with_content_type),
            (of.content_encoding().clone(), BasicProperties::with_content_encoding),
            (of.kind().clone(), BasicProperties::with_type),
            (of.app_id().clone(), BasicProperties::with_app_id),
            (kept(self.user, of.user_id()), BasicProperties::with_user_id),
            (of.cluster_id().clone(), BasicProperties::with_cluster_id),
            (kept(self.expiration, of.expiration()), BasicProperties::with_expiration),
        ];
        for (value, with) in texts {
            properties = value.into_iter().fold(properties, with);
        }
        properties =
            of.timestamp().iter().copied().fold(properties, BasicProperties::with_timestamp);
        properties = of
            .delivery_mode()
            .iter()
            .copied()
            .fold(properties, BasicProperties::with_delivery_mode);
        of.priority().iter().copied().fold(properties, BasicProperties::with_priority)
    }
}

#[cfg(test)]
mod tests {
    use busline_core::{Key, Topic};
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;

    fn letter(of: BasicProperties) -> Message {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut headers = of.headers().clone().unwrap_or_default();
        headers.insert("x-first-death-exchange".into(), text("events"));
        headers.insert("x-first-death-queue".into(), text("lab.events"));
        let came = mapping::Came {
            key: "Boom".into(),
            properties: of.with_headers(headers),
            payload: "p".into(),
            redelivered: false,
        };
        mapping::decode(Dialect::Eventail, &Topic::new("events").unwrap(), &came)
    }

    #[test]
    fn another_users_id_goes_back_as_a_header_and_no_other_is_touched() {
        let theirs = BasicProperties::default().with_user_id("them".into()).with_delivery_mode(1);
        let message = letter(theirs);
        let same = put_back(Dialect::Eventail, "them", &message).unwrap();
        assert_eq!(same.properties.user_id().as_ref().unwrap().as_str(), "them");
        assert!(!same.properties.headers().as_ref().unwrap().contains_key(USER_ID));
        let other = put_back(Dialect::Eventail, "us", &message).unwrap();
        let headers = other.properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get(USER_ID), Some(&super::super::names::text("them")));
        assert_eq!(
            (other.properties.user_id(), other.properties.delivery_mode()),
            (&None, &Some(1))
        );
        let mut sent = FieldTable::default();
        sent.insert(USER_ID.into(), AMQPValue::LongInt(7));
        let both = BasicProperties::default().with_user_id("them".into()).with_headers(sent);
        let other = put_back(Dialect::Eventail, "us", &letter(both)).unwrap();
        let headers = other.properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get(USER_ID), Some(&AMQPValue::LongInt(7)));
    }

    #[test]
    fn what_was_changed_is_not_put_back_but_published() {
        let message = letter(BasicProperties::default().with_app_id("a".into()));
        assert!(put_back(Dialect::Eventail, "us", &message).is_some());
        let mut changed = message.clone();
        changed.properties.app_id = None;
        assert!(put_back(Dialect::Eventail, "us", &changed).is_none());
        let changed = message.header("more", 1);
        assert!(put_back(Dialect::Eventail, "us", &changed).is_none());
        let plain = Message::new(Topic::new("events").unwrap(), Key::empty(), "");
        assert!(put_back(Dialect::Eventail, "us", &plain).is_none());
        assert!(put_back(Dialect::Busline, "us", &plain).is_none());
    }
}
