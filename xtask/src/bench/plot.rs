//! The figures as a picture: bars on a logarithmic scale, a group for each work, as SVG.

use crate::report::{Report, Row, number};

/// The works that are shown, by work and durability; their unit is messages a second.
const SHOWN: &[(&str, &str)] = &[
    ("publish 1,000,000 x 100 B", crate::goals::PROCESS),
    ("publish 200,000 x 1 KiB", crate::goals::PROCESS),
    ("publish 100 B, one a call", crate::goals::PROCESS),
    ("publish 1,000,000 x 100 B", crate::goals::POWER_AT_END),
    ("read 1,000,000 x 100 B", ""),
    ("1 publisher", crate::goals::POWER_EACH),
    ("64 publishers, 64 tasks", crate::goals::POWER_EACH),
    ("claim and ack 100 B", crate::goals::PROCESS),
];

/// Rows that compare Busline with itself, or say again what another row says.
const NOT_SHOWN: &[&str] = &["1 publisher", "the best embedded peer", crate::goals::PROCESS];

const WIDTH: u32 = 900;
const LABEL_WIDTH: u32 = 270;
const BAR_WIDTH: u32 = WIDTH - LABEL_WIDTH - 90;
const LINE: u32 = 18;

/// Both backgrounds are drawn, so that the text is legible wherever the picture is shown.
const STYLE: &str = "\
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 13px }
  .back { fill: #ffffff } .busline { fill: #0969da } .limit { fill: #8c959f } .peer { fill: #bf8700 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .back { fill: #0d1117 }
    .busline { fill: #4493f8 } .limit { fill: #656c76 } .peer { fill: #d29922 }
  }";

/// What a bar stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The log.
    Busline,
    /// Bare system calls.
    Limit,
    /// Another store.
    Peer,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Busline => "busline",
            Self::Limit => "limit",
            Self::Peer => "peer",
        }
    }
}

/// One figure of a work.
#[derive(Debug)]
pub(crate) struct Bar {
    /// Whose it is.
    pub(crate) label: String,
    /// Messages a second.
    pub(crate) value: f64,
    /// What it stands for.
    pub(crate) kind: Kind,
}

/// All figures of one work, the greatest first.
#[derive(Debug)]
pub(crate) struct Group {
    /// The work.
    pub(crate) work: &'static str,
    /// What a message survives; empty if none is published.
    pub(crate) durability: &'static str,
    /// Busline's and those beside it.
    pub(crate) bars: Vec<Bar>,
}

impl Group {
    /// The greatest figure of a kind.
    pub(crate) fn best(&self, kind: Kind) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.kind == kind)
    }
}

/// The works that are shown and were measured.
pub(crate) fn groups(report: &Report) -> Vec<Group> {
    SHOWN.iter().filter_map(|shown| group(report, *shown)).collect()
}

/// The picture; `None` when nothing that it shows was measured.
pub(crate) fn svg(report: &Report) -> Option<String> {
    let groups = groups(report);
    let values = || groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value));
    let (least, greatest) = values().fold((f64::MAX, 0.0_f64), |(least, greatest), value| {
        (least.min(value), greatest.max(value))
    });
    if greatest <= 0.0 {
        return None;
    }
    // Bars begin at the power of ten below the least, so that even that one is seen.
    let scale = Scale { from: least.log10().floor(), to: greatest.log10() };
    let mut body = String::new();
    let mut y = 46;
    for group in &groups {
        let survives = match group.durability {
            "" => String::new(),
            durability => format!(" — survives {durability}"),
        };
        body += &text(10, y, "title", &format!("{}{survives}", group.work));
        for bar in &group.bars {
            y += LINE;
            body += &bar_line(y, bar, &scale);
        }
        y += LINE + 14;
    }
    let caption = "messages a second, logarithmic: each step of ten has the same width";
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         height=\"{y}\" role=\"img\" aria-label=\"Busline beside the limit of the machine and other stores\">\n\
         <style>\n{STYLE}\n</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{y}\"/>\n{}{body}</svg>\n",
        text(10, 20, "", caption),
    ))
}

fn group(report: &Report, (work, durability): (&'static str, &'static str)) -> Option<Group> {
    let is_shown = |row: &&Row| {
        let figure = &row.figure;
        (figure.work.as_str(), figure.durability, figure.unit) == (work, durability, "msg/s")
    };
    let rows: Vec<_> = report.rows.iter().filter(is_shown).collect();
    let busline = rows.first()?.busline.median();
    let mut bars = vec![Bar { label: "Busline".to_owned(), value: busline, kind: Kind::Busline }];
    bars.extend(rows.iter().filter(|row| !NOT_SHOWN.contains(&row.figure.beside.0)).map(|row| {
        let name = row.figure.beside.0;
        // System calls are written with the section of their manual page.
        let kind = if name.contains("(2)") { Kind::Limit } else { Kind::Peer };
        Bar { label: name.to_owned(), value: row.beside.median(), kind }
    }));
    bars.retain(|bar| bar.value.is_finite() && bar.value > 0.0);
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    Some(Group { work, durability, bars })
}

/// From powers of ten to places.
#[derive(Debug)]
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn width(&self, value: f64) -> f64 {
        let part = (value.log10() - self.from) / (self.to - self.from).max(1e-9);
        (part * f64::from(BAR_WIDTH)).max(1.0)
    }
}

fn bar_line(y: u32, bar: &Bar, scale: &Scale) -> String {
    let width = scale.width(bar.value);
    let after = f64::from(LABEL_WIDTH) + width + 6.0;
    format!(
        "{}<rect class=\"{}\" x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{width:.0}\" height=\"{}\"/>\n\
         <text x=\"{after:.0}\" y=\"{y}\">{}</text>\n",
        text(24, y, "", &bar.label),
        bar.kind.class(),
        y - 11,
        LINE - 5,
        number(bar.value),
    )
}

fn text(x: u32, y: u32, class: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<text{class} x=\"{x}\" y=\"{y}\">{text}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figure;

    #[test]
    fn a_bar_for_each_that_was_measured() {
        let mut report = Report::default();
        assert_eq!(svg(&report), None);
        for (name, beside) in [("write(2) each", 2e6), ("A & B", 1e4), ("1 publisher", 5.0)] {
            report.add(Figure {
                table: "t",
                work: "publish 100 B, one a call".to_owned(),
                durability: crate::goals::PROCESS,
                unit: "msg/s",
                busline: 1e6,
                beside: (name, beside),
            });
        }
        let svg = svg(&report).expect("something was measured");
        let classes = |class: &str| svg.matches(&format!("<rect class=\"{class}\"")).count();
        assert_eq!(["busline", "limit", "peer"].map(classes), [1, 1, 1]);
        assert!(svg.contains("A &amp; B") && svg.contains(">1.00M<"), "{svg}");
        assert!(svg.find("write(2)") < svg.find("Busline<"), "the longest bar is the first: {svg}");
    }

    #[test]
    fn ten_times_as_much_is_as_much_longer_everywhere() {
        let scale = Scale { from: 0.0, to: 4.0 };
        let step = |value: f64| scale.width(value * 10.0) - scale.width(value);
        assert!((step(10.0) - step(100.0)).abs() < 1e-9);
    }
}
