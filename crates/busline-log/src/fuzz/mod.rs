//! Entry points for fuzzing: each takes arbitrary bytes and must neither panic nor loop nor reserve
//! memory by a length that the bytes claim. For `fuzz/` and the smoke test; no part of the API.

mod directory;
mod pieces;
#[cfg(test)]
mod tests;

/// Does with arbitrary bytes what a program would do with them.
pub type Target = fn(&[u8]);

/// Every target by name. The seeds of one are the files of `fuzz/seeds/{name}`.
pub const TARGETS: &[(&str, Target)] = &[
    ("log_frame", pieces::frame),
    ("log_records", pieces::records),
    ("log_segment_header", pieces::segment_header),
    ("log_small_files", pieces::small_files),
    ("log_directory", directory::directory),
    ("log_control_page", directory::control_page),
    ("log_group_ops", crate::group::fuzz::ops),
    ("log_group_snapshot", crate::group::fuzz::snapshot),
    ("log_group_journal", crate::group::fuzz::journal),
];

/// Runs a target on some bytes; panics when there is none of this name.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("the target is in the table");
    run(data);
}

/// Inputs that reach far into a target, from which a fuzzer starts.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "log_frame" => pieces::frame_seeds(),
        "log_records" => pieces::records_seeds(),
        "log_segment_header" => pieces::segment_header_seeds(),
        "log_small_files" => pieces::small_files_seeds(),
        "log_directory" => directory::directory_seeds(),
        "log_control_page" => directory::control_page_seeds(),
        "log_group_ops" => crate::group::fuzz::ops_seeds(),
        "log_group_snapshot" => crate::group::fuzz::snapshot_seeds(),
        "log_group_journal" => crate::group::fuzz::journal_seeds(),
        _ => Vec::new(),
    }
}
