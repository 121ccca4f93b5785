//! The flaws: each breaks one promise, and names the case that must notice.

macro_rules! flaws {
    ($($(#[doc = $doc:literal])+ $name:ident => $case:literal;)+) => {
        /// What is wrong with a transport.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Flaw {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Flaw {
            /// Every flaw, with the case that guards the promise it breaks.
            pub(crate) const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $case),)+];
        }
    };
}

flaws! {
    /// A session promises what its transport does not.
    PromisesMore => "the_session_promises_no_more_than_its_transport";
    /// What the profile refuses works all the same.
    WorksThoughRefused => "what_is_refused_fails_when_it_is_bound";

    /// The receipt comes before the message is stored.
    ReceiptsEarly => "a_receipt_means_stored";
    /// Every receipt names the place of the first.
    NamesAnotherPlace => "a_receipt_names_the_place";
    /// The receipts of a batch come in the opposite order.
    MixesUpReceipts => "receipts_come_in_the_order_of_the_batch";
    /// A batch without messages is an error.
    RefusesTheEmptyBatch => "an_empty_batch_is_accepted";
    /// Nothing is stored before somebody waits for its receipt.
    DropsWithTheReceipt => "dropped_receipts_cancel_nothing";
    /// A send that is dropped unpolled has sent all the same.
    SendsWhenCancelled => "cancelled_before_acceptance_sends_nothing";
    /// What was receipted is gone with the processes.
    ForgetsEverything => "what_was_receipted_survives_every_process";
    /// A message that is sent again is stored again.
    StoresCopies => "a_message_id_is_stored_once";
    /// All messages count as copies of the first.
    DropsOthersAsCopies => "other_message_ids_are_stored_each";

    /// Batches are stored back to front.
    ReordersBatches => "pipelined_batches";
    /// Two sends in turn are swapped.
    ReordersSends => "one_by_one_without_waiting_for_receipts";
    /// A chunk of deliveries comes back to front.
    ReordersChunks => "within_an_ordering_key";
    /// What a session sent last is stored when the next one sends.
    ReordersSessions => "across_sessions_of_a_publisher";

    /// Some messages are lost on the way in.
    Loses => "every_group_sees_every_message";
    /// A message comes twice as the same attempt.
    Duplicates => "members_share_without_duplicates";
    /// Each member gets what only one of them should.
    DeliversToEveryMember => "members_share_without_duplicates";
    /// Groups take messages from one another.
    SplitsBetweenGroups => "every_group_sees_every_message";
    /// Nothing waits for a group without members.
    KeepsNothingForAbsentMembers => "messages_wait_for_a_member";
    /// A group starts at the earliest record, unasked.
    StartsAtEarliest => "a_group_starts_from_now";
    /// A group starts from now, whatever was asked.
    StartsAtLatest => "a_group_starts_where_asked";
    /// What is published to one topic goes to another too.
    MixesTopics => "topics_do_not_mix";
    /// A group is forgotten when all have stopped.
    ForgetsGroups => "a_group_continues_after_all_have_stopped";
    /// What was unsettled is taken as settled when all have stopped.
    SettlesAtReopen => "what_was_unsettled_comes_again_after_all_have_stopped";
    /// A group remembers only up to where all is settled, or beyond.
    RemembersOneNumber => "settled_out_of_order_stays_settled";
    /// After a reopen all groups start at the earliest record.
    ReopensAtEarliest => "every_group_keeps_its_own_place";
    /// Declaring a group again sends it back to its start.
    DeclaringMovesBack => "declaring_again_changes_nothing";
    /// A difference is no error, and is ignored.
    IgnoresConflicts => "a_different_group_is_a_conflict";
    /// Adding replaces.
    ReplacesWhenAdding => "a_difference_is_replaced_or_added_when_asked";
    /// Verifying creates what is missing.
    VerifyCreates => "verify_creates_nothing";
    /// Verifying looks for what is missing only.
    VerifySeesNoDifference => "verify_sees_differences";
    /// Assuming creates what is missing.
    AssumeCreates => "assume_looks_at_nothing";
    /// A batch with more than one message loses some of them.
    LosesUnderLoad => "many_publishers_and_members_at_once";
    /// Batches of several publishers are stored back to front.
    ReordersUnderLoad => "concurrent_publishers_keep_their_own_order";
    /// A chunk that is on its way to somebody who gives up is dropped.
    CancellingDrops => "a_next_that_is_given_up_loses_nothing";
    /// Declaring a group creates its topic.
    DeclaresTopicsToo => "a_group_needs_its_topic";
    /// Joining declares.
    JoiningDeclares => "joining_what_is_not_declared_fails";

    /// Broadcasts of a topic share what comes.
    BroadcastsShare => "every_instance_gets_every_message";
    /// A broadcast starts at the earliest record.
    BroadcastsStartEarly => "a_broadcast_starts_now";
    /// A broadcast gets every key.
    BroadcastsIgnorePatterns => "a_broadcast_filters";
    /// A broadcast eats what a group should get.
    BroadcastsTakeFromGroups => "a_broadcast_takes_nothing_from_groups";
    /// The group of a broadcast stays when it is gone.
    BroadcastsStay => "a_broadcast_leaves_nothing_behind";

    /// What is handed out is settled at that moment.
    AcksEarly => "a_killed_members_deliveries_go_to_another";
    /// What a dead member held never comes again.
    NeverTakesOver => "a_member_that_joins_later_takes_over";
    /// A dead member's settles come to nothing even if they were answered.
    ForgetsSettlesAtDeath => "what_was_settled_before_death_stays_settled";
    /// A settle after the end of the session is answered as if it counted.
    TakesLateSettles => "a_dead_members_settles_are_lost";
    /// Nobody is told that a delivery is lost.
    TellsNobodyOfLoss => "a_dead_members_settles_are_lost";
    /// A late settle settles the delivery of whoever has it now.
    SettlesForOthers => "a_late_settle_does_not_touch_the_new_owner";
    /// Closing a session keeps what it held.
    KeepsAfterClose => "a_closed_session_gives_back";

    /// Groups get every key.
    IgnoresPatterns => "the_grammar_in_groups";
    /// Readers see every key.
    ReadersIgnorePatterns => "the_grammar_in_readers";
    /// A group's patterns are those of whoever declared it, until a reopen.
    ForgetsPatterns => "patterns_belong_to_the_group";
    /// Each matching pattern delivers the message once more.
    DeliversByPattern => "a_key_that_matches_twice_comes_once";
    /// Groups that select keys without wildcards never find the empty one.
    OverlooksTheEmptyKey => "rare_keys_in_groups";
    /// Readers never find the empty key.
    ReadersOverlookTheEmptyKey => "rare_keys_in_readers";
    /// Keys are folded to lower case and cut at blanks.
    ManglesKeys => "keys_arrive_as_they_were_sent";

    /// An ack is answered and forgotten.
    ForgetsAcks => "an_acked_message_never_comes_again";
    /// A retry is an ack.
    RetryIsAck => "a_retried_message_comes_again";
    /// An ack settles everything handed out before it.
    AcksMultiple => "each_delivery_is_settled_by_itself";
    /// Another member gets what one holds.
    ResetsWhenJoining => "an_unsettled_message_does_not_come_twice";
    /// Only a settle that somebody waits for is done.
    NeedsAnAnswer => "a_settle_that_nobody_waits_for_counts";
    /// A dropped delivery never comes again.
    DroppingLeaks => "a_dropped_delivery_comes_again";
    /// A dropped delivery comes again at once, for ever.
    DroppingSpins => "a_dropped_delivery_comes_again";
    /// Dropping does not count as an attempt.
    DroppingDoesNotCount => "a_dropped_delivery_comes_again";
    /// Headers arrive sorted, and each name once.
    ManglesHeaders => "a_message_arrives_as_it_was_sent";
    /// Ordering keys do not arrive.
    DropsOrderingKeys => "a_message_arrives_as_it_was_sent";
    /// Delayed retries come at once.
    IgnoresDelays => "a_delayed_retry_is_not_early";
    /// All delays are the same.
    EqualDelays => "the_shorter_delay_comes_first";
    /// A delayed message waits in its member, and dies with it.
    DelaysInTheMember => "a_delayed_retry_survives_its_member";

    /// Own headers are dropped from dead letters.
    DropsDeadHeaders => "a_rejected_message_is_kept_unchanged";
    /// A dead letter gives no reason.
    DropsReasons => "a_rejected_message_is_kept_unchanged";
    /// A rejected message comes again.
    RejectIsRetry => "a_rejected_message_leaves_its_group";
    /// A rejected message is gone.
    RejectIsAck => "dead_letters_wait_for_whoever_looks";
    /// A rejected message is taken from all groups.
    RejectsForAll => "other_groups_keep_the_message";
    /// A redriven message comes to every group.
    RedrivesToAll => "a_redriven_letter_reaches_only_its_group";
    /// Redrives are not counted.
    ForgetsRedrives => "a_letter_rejected_again_counts_its_redrives";

    /// Every delivery is attempt 1.
    ResetsAttempts => "attempts_count_up";
    /// Attempts start again when all have stopped.
    ForgetsAttempts => "attempts_count_over_members_and_reopens";
    /// Attempts have no bound.
    IgnoresAttemptsMax => "attempts_are_bounded";
    /// A drop gives the attempt back.
    DropsAreFree => "drops_and_deaths_count_as_attempts";
    /// Without saying there is no bound.
    NoDefaultLimit => "there_is_a_limit_by_default";
    /// A member may hold for ever.
    IgnoresLeases => "held_for_too_long_is_lost_knowingly";
    /// Leases are not renewed.
    NeverRenews => "a_lease_is_renewed_while_it_is_held";
    /// What was settled is told lost later.
    TellsLossOfTheSettled => "settling_in_time_is_not_lost";
    /// Retries never block.
    NeverBlocks => "later_ones_of_an_ordering_key_wait";
    /// What has no ordering key is not ordered at all.
    OrdersNothingWithoutKey => "without_an_ordering_key_the_key_orders";
    /// What is blocked stays blocked after a reject.
    BlocksForEver => "the_first_of_a_key_goes_on_after_any_settle";

    /// The count in flight has no bound.
    IgnoresMaxInFlight => "max_in_flight_bounds_the_count";
    /// The bytes in flight have no bound.
    IgnoresMaxBytes => "max_in_flight_bounds_the_bytes";
    /// A message larger than the bound never comes.
    StarvesTheLarge => "one_larger_than_the_bound_comes_alone";
    /// A full member keeps the rest from others.
    HoardsMessages => "a_full_member_leaves_the_rest_to_others";
    /// A delivery given back keeps its room.
    LeaksRoom => "a_retry_makes_room";

    /// What was published late is not there when the ack is.
    LosesWhatHandlersPublish => "what_a_handler_published_is_stored_before_the_ack";
    /// A handler's failure is acked.
    AcksInsteadOfRetrying => "a_failed_publish_turns_the_ack_into_a_retry";
    /// A delivery that waits at the gate is acked already.
    AcksAtTheGate => "an_ack_waits_for_an_outstanding_receipt";
    /// An unroutable message is an error.
    NacksUnroutable => "an_unroutable_publish_is_returned_and_acked";

    /// Mandatory is ignored.
    IgnoresMandatory => "a_mandatory_message_without_a_group_comes_back";
    /// One routable message makes its batch routable.
    RoutesWholeBatches => "only_what_matches_no_group_comes_back";
    /// A deleted group still counts.
    RoutesToTheDeleted => "a_deleted_group_routes_nothing";
    /// Every message is mandatory.
    AlwaysMandatory => "what_is_not_mandatory_is_stored";
    /// Broadcasts do not count as groups.
    BroadcastsDoNotRoute => "a_broadcast_is_a_group";

    /// A reader starts at the earliest record.
    ReadersIgnorePositions => "a_reader_starts_anywhere";
    /// Offsets of all records are the same.
    OffsetsStandStill => "offsets_are_text_and_ordered";
    /// A reader that waits is not woken.
    ReadersSleepOn => "a_reader_follows";
    /// A wait that is given up takes the next record with it.
    WaitsTakeARecord => "a_wait_is_bounded_and_may_be_cancelled";
    /// Seeking does nothing.
    SeeksNothing => "a_reader_seeks";
    /// A seek that fails moves to the end.
    FailedSeeksMove => "a_reader_seeks";
    /// Offsets of other topics start at the earliest record.
    TakesForeignOffsets => "an_offset_of_another_topic_is_refused";
    /// Offsets beyond the end start at the end.
    TakesOffsetsBeyond => "an_offset_beyond_the_end_is_refused";
    /// What was read is settled for the groups.
    ReadingSettles => "reading_settles_nothing";
    /// Chunks are as large as they like.
    IgnoresChunkMax => "chunks_are_bounded_and_a_position_goes_on";
    /// The position is that of the last record, not behind it.
    PositionStaysBehind => "chunks_are_bounded_and_a_position_goes_on";
    /// After a reopen history is gone.
    ForgetsHistory => "history_stays_after_a_reopen";
    /// All readers of a session share one place.
    ReadersShareAPlace => "several_readers_do_not_disturb_one_another";

    /// Retention takes what groups need.
    RetentionTakesAll => "retention_spares_what_a_group_needs";
    /// Reading what was removed starts at what is there.
    ReadsPastTheRemoved => "what_retention_removed_is_refused";

    /// A session does not tell that it has ended.
    EndsSilently => "an_ended_session_says_so";
    /// A session that ended reports another kind of error.
    EndsAsOther => "a_publisher_goes_on";
    /// A subscription that ended yields nothing and no error.
    SubscriptionsEndQuietly => "a_consumer_goes_on";
    /// What was held over a restart is settled by it.
    RestartSettles => "what_was_held_comes_again";
    /// Broadcasts cannot be subscribed a second time.
    BroadcastsOnce => "a_broadcast_goes_on";
    /// A reader that is opened again starts at the end.
    ReadersReopenAtTheEnd => "a_reader_goes_on";
    /// After a restart everything comes again.
    RestartReplays => "what_was_settled_stays_settled";

    /// A broker that was away is taken for one that is gone, by publishers.
    PublishersGiveUp => "a_publisher_waits_while_the_broker_is_away";
    /// A broker that was away is taken for one that is gone, by consumers.
    ConsumersGiveUp => "a_consumer_waits_while_the_broker_is_away";

    /// What was accepted and not receipted is dropped by a close.
    CloseDropsMessages => "closing_flushes_receipts";
    /// What was settled and not answered is dropped by a close.
    CloseDropsSettles => "closing_flushes_settles";
    /// What was fetched ahead counts as an attempt when it is given back.
    StopCounts => "what_was_not_handed_out_is_not_counted";
    /// What was fetched ahead stays with a stopped subscription.
    StopKeeps => "stopping_gives_back_what_was_not_handed_out";
    /// A stopped subscription goes on.
    NeverStops => "a_stopped_subscription_ends";
    /// A dropped subscription keeps taking messages.
    DroppedStreamsTake => "dropping_a_subscription_is_stopping_it";
    /// A closed session still sends.
    ClosedSessionsSend => "a_closed_session_does_nothing_more";
    /// Closing again is an error.
    ClosesOnce => "closing_twice_is_no_error";

    /// A payload over the bound is cut.
    CutsPayloads => "a_payload_over_its_bound_is_refused";
    /// What stands before the bad message of a batch is sent.
    SendsHalfBatches => "a_payload_over_its_bound_is_refused";
    /// Payloads at the bound are refused.
    RefusesTheLargest => "a_payload_at_its_bound_arrives";
    /// Headers over their bounds are dropped.
    DropsLargeHeaders => "headers_over_their_bounds_are_refused";
    /// Properties over their bounds are dropped.
    DropsLargeProperties => "a_property_over_its_bound_is_refused";
    /// A bound of nothing is taken as one.
    TakesABoundOfNothing => "a_bound_of_nothing_is_refused";

    /// All instances have the same reply address.
    SharesReplies => "a_reply_reaches_the_instance_that_asked";
    /// Each time it is asked a session has another address.
    MovesReplies => "an_address_stays_with_its_session";
    /// Whoever connects again is taken for somebody else.
    ForgetsWhoConnects => "an_address_outlives_its_session";

    /// Topics are listed as they come.
    ListsUnsorted => "topics_are_listed";
    /// What is in flight is not listed.
    HidesInFlight => "groups_count_what_they_do";
    /// Members are not listed.
    HidesMembers => "groups_are_listed";
    /// A reset does nothing.
    ResetsNothing => "a_reset_moves_running_members";
    /// Who looks settles.
    PeekSettles => "a_peek_leaves_everything";
    /// Who looks sees the newest first.
    PeeksBackwards => "a_peek_shows_what_waits";
    /// A purge only counts.
    PurgesNothing => "a_purge_settles_everything";
    /// Conditions of a deletion are ignored.
    DeletesAnyway => "a_deleted_group_is_gone";
    /// A deleted topic keeps its groups.
    DeletesNoTopics => "a_deleted_topic_is_gone";
    /// Groups stay for ever.
    NeverExpires => "an_idle_group_expires";
    /// Groups expire though they have members.
    ExpiresInUse => "an_idle_group_expires";
    /// A message to a deleted topic is receipted.
    ReceiptsForDeletedTopics => "a_deleted_topic_is_gone";
    /// What does not exist is no error.
    FindsEverything => "what_does_not_exist_is_not_found";
}
