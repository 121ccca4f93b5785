//! What the client and the broker say, in the words of the port.

use busline_core::{Error, ErrorKind};
use lapin::ErrorKind as Said;

/// The error for one of the client's.
pub(super) fn error(said: lapin::Error) -> Error {
    let kind = match said.kind() {
        Said::ProtocolError(broker) => of_code(broker.get_id(), broker.get_message().as_str()),
        Said::ChannelsLimitReached | Said::SerialisationError(_) => ErrorKind::Limit,
        Said::AuthProviderError(_) => ErrorKind::Unauthorized,
        Said::IOError(cause) if is_about_certificates(cause) => ErrorKind::Unauthorized,
        _ => ErrorKind::Disconnected,
    };
    let message = match said.kind() {
        Said::ProtocolError(broker) => readable(broker.get_message().as_str()),
        Said::MissingHeartbeatError => "the broker sent no heartbeat in time".to_owned(),
        Said::IOError(cause) => format!("the connection failed: {cause}"),
        _ => "the connection is gone".to_owned(),
    };
    Error::new(kind, message).source(said)
}

/// As [`error`]; for what only happens while connecting.
pub(super) fn connect_error(said: lapin::Error) -> Error {
    let distrusted = matches!(said.kind(), Said::IOError(cause) if is_about_certificates(cause));
    let refused = error(said);
    match refused.kind() {
        ErrorKind::Unauthorized if distrusted => {
            refused.hint("use the name in the certificate, and trust who signed it: ?ca=file.pem")
        }
        ErrorKind::Unauthorized => refused.hint("check user, password and what the user may do"),
        // The virtual host is the only thing that is named while connecting. It is a part of where the bus is.
        ErrorKind::NotFound => Error::new(ErrorKind::Unauthorized, refused.message().to_owned())
            .source(refused)
            .hint("create the virtual host, or name another"),
        _ => refused,
    }
}

/// What is wrong with a certificate stays wrong when it is tried again.
fn is_about_certificates(cause: &std::io::Error) -> bool {
    cause.to_string().contains("invalid peer certificate")
}

/// Reply codes of AMQP 0-9-1, section 1.8 of its reference, as RabbitMQ uses them.
fn of_code(code: u16, text: &str) -> ErrorKind {
    match code {
        311 | 501..=503 => ErrorKind::Limit,
        403 => ErrorKind::Unauthorized,
        // A queue whose node is down is there again later.
        404 if text.contains("is down") => ErrorKind::Disconnected,
        404 => ErrorKind::NotFound,
        405 | 406 => ErrorKind::Conflict,
        530 if text.contains("not found") => ErrorKind::NotFound,
        530 if text.contains("refused") || text.contains("access") => ErrorKind::Unauthorized,
        540 => ErrorKind::Refused,
        // Both sides spoke of a channel at once, or the connection is not understood any more.
        504 | 505 => ErrorKind::Disconnected,
        320 | 541 | 200 => ErrorKind::Disconnected,
        _ => ErrorKind::Other,
    }
}

/// The broker shouts its code first; people read the rest.
fn readable(text: &str) -> String {
    let said = text.split_once(" - ").map_or(text, |(_, said)| said);
    format!("the broker says: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds() {
        for (code, text, kind) in [
            (404, "NOT_FOUND - no queue 'q' in vhost '/'", ErrorKind::NotFound),
            (404, "home node 'a@b' of queue 'q' is down or inaccessible", ErrorKind::Disconnected),
            (406, "PRECONDITION_FAILED - inequivalent arg", ErrorKind::Conflict),
            (403, "ACCESS_REFUSED", ErrorKind::Unauthorized),
            (530, "NOT_ALLOWED - vhost v not found", ErrorKind::NotFound),
            (
                530,
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u'",
                ErrorKind::Unauthorized,
            ),
            (504, "CHANNEL_ERROR - expected 'channel.open'", ErrorKind::Disconnected),
            (320, "CONNECTION_FORCED - shutdown", ErrorKind::Disconnected),
        ] {
            assert_eq!(of_code(code, text), kind, "{text}");
        }
        assert_eq!(readable("NOT_FOUND - no queue"), "the broker says: no queue");
    }
}
