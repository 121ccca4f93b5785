//! What the client and the broker say, in the words of the port.

use busline_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The error for one of the client's.
pub(super) fn error(said: KafkaError) -> Error {
    let admin = match &said {
        KafkaError::AdminOp(code) => Some(*code),
        _ => None,
    };
    let Some(code) = admin.or_else(|| said.rdkafka_error_code()) else {
        let kind = match &said {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => ErrorKind::Limit,
            _ => ErrorKind::Other,
        };
        return Error::new(kind, "the client says no").source(said);
    };
    of_code(code)
}

/// The error for a code of the broker's or the client's.
pub(super) fn of_code(code: Code) -> Error {
    let error = Error::new(kind(code), format!("the broker says: {code}"));
    match kind(code) {
        ErrorKind::Unauthorized => {
            error.hint("check user, password, certificates and what the user may do")
        }
        ErrorKind::Limit if code == Code::MessageSizeTooLarge => error.hint(
            "raise max.message.bytes of the topic, and message_max in the URL, or send less at once",
        ),
        _ => error,
    }
}

fn kind(code: Code) -> ErrorKind {
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId
        | Code::GroupIdNotFound => ErrorKind::NotFound,
        Code::TopicAlreadyExists | Code::NonEmptyGroup | Code::InvalidConfig => ErrorKind::Conflict,
        Code::MessageSizeTooLarge
        | Code::InvalidTopic
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidMessageSize
        | Code::OffsetMetadataTooLarge
        | Code::OffsetOutOfRange
        | Code::InvalidArgument => ErrorKind::Limit,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::SSL => ErrorKind::Unauthorized,
        Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::QueueFull
        | Code::KafkaStorageError
        | Code::ThrottlingQuotaExceeded => ErrorKind::Full,
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::NotImplemented => {
            ErrorKind::Refused
        }
        Code::InvalidMessage | Code::BadMessage | Code::BadCompression => ErrorKind::Damaged,
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::MessageTimedOut
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::BrokerDestroy
        | Code::BrokerNotAvailable
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NetworkException
        | Code::RequestTimedOut
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::NotController
        | Code::State
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::PollExceeded
        | Code::NoOffset
        | Code::AutoOffsetReset
        | Code::AssignmentLost => ErrorKind::Disconnected,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds() {
        for (code, kind) in [
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound),
            (Code::MessageSizeTooLarge, ErrorKind::Limit),
            (Code::TopicAuthorizationFailed, ErrorKind::Unauthorized),
            (Code::AllBrokersDown, ErrorKind::Disconnected),
            (Code::NotEnoughReplicas, ErrorKind::Full),
        ] {
            let error = error(KafkaError::MessageProduction(code));
            assert_eq!(error.kind(), kind, "{error}");
        }
        let wrong = KafkaError::ClientCreation("no such thing".to_owned());
        assert_eq!(error(wrong).kind(), ErrorKind::Limit);
    }
}
