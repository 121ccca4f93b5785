//! The registry: every case of the contract, by promise.

mod admin;
mod attempts;
mod broadcast;
mod close;
mod concurrent;
mod dead_letters;
mod declare;
mod filter;
mod flow;
mod gate;
mod groups;
mod limits;
mod order;
mod profile;
mod receipts;
mod reconnect;
mod replay;
mod requests;
mod retention;
mod settle;
mod takeover;
mod unroutable;

use super::case::Case;

/// Every file's registry. A file that is not here does not compile: its cases would be unused.
const ALL: &[&[Case]] = &[
    profile::CASES,
    receipts::CASES,
    order::CASES,
    groups::CASES,
    declare::CASES,
    concurrent::CASES,
    broadcast::CASES,
    takeover::CASES,
    filter::CASES,
    settle::CASES,
    dead_letters::CASES,
    attempts::CASES,
    flow::CASES,
    gate::CASES,
    unroutable::CASES,
    replay::CASES,
    retention::CASES,
    reconnect::CASES,
    close::CASES,
    limits::CASES,
    requests::CASES,
    admin::CASES,
];

/// Every case, in the order of the matrix.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().flat_map(|cases| cases.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Capability;
    use std::collections::HashSet;

    #[test]
    fn every_promise_has_a_case_and_every_case_a_name() {
        let mut names = HashSet::new();
        for case in cases() {
            assert!(names.insert(case.name), "two cases are called {}", case.name);
            assert!(case.statement.ends_with('.'), "{} states nothing", case.name);
        }
        for capability in Capability::ALL {
            assert!(
                cases().any(|case| case.capability == *capability),
                "no case shows '{capability}'"
            );
        }
    }
}
