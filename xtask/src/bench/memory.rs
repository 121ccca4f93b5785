//! Memory while a log grows tenfold and is read: it must not follow.

use crate::report::{Figure, Report};
use crate::{Result, Setup, child, remove};

const TABLE: &str = "Memory of a process, without the page cache";

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("memory")?;
    let messages = setup.scaled(4_000_000, 400_000);
    let [early, late, read] = child::memory_of_a_process(&dir.join("log"), messages)?;
    for (work, busline) in [("all published", late), ("all published and read", read)] {
        report.add(Figure {
            table: TABLE,
            work: format!("{messages} x 100 B, {work}"),
            durability: "",
            unit: "MiB",
            busline,
            beside: ("a tenth published", early),
        });
    }
    remove(&dir)
}
