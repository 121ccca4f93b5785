//! Dates and times of day without a time zone, as Hermes has them: whole seconds.

use std::fmt;
use std::str::FromStr;

use busline_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::marker;

const DAY_S: i64 = 86_400;

/// A date and a time of day without a time zone, to the second, in the years 1 to 9999.
///
/// Through serde it is the marker text that Hermes writes, so that it may stand in typed attributes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl DateTime {
    /// From year, month, day, hour, minute and second; `Limit` when there is no such second.
    pub fn new(date: (u16, u8, u8), time: (u8, u8, u8)) -> Result<Self> {
        let ((year, month, day), (hour, minute, second)) = (date, time);
        let is_date = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day);
        if !is_date || hour > 23 || minute > 59 || second > 59 {
            let said = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            return Err(Error::new(ErrorKind::Limit, format!("there is no {said}"))
                .hint("years are 1 to 9999, and there are no leap seconds"));
        }
        Ok(Self { year, month, day, hour, minute, second })
    }

    /// What a clock in UTC shows at this time; what is less than a second is cut, as Hermes does.
    pub fn of_utc(time: Timestamp) -> Result<Self> {
        let seconds = time.unix_us().div_euclid(1_000_000);
        let (days, rest) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        let (year, month, day) = civil_of(days);
        let small = |number: i64| u8::try_from(number).unwrap_or(u8::MAX);
        let time = (small(rest / 3600), small(rest / 60 % 60), small(rest % 60));
        Self::new((u16::try_from(year).unwrap_or(0), small(month), small(day)), time)
    }

    /// The time at which a clock in UTC shows this.
    pub fn to_utc(self) -> Timestamp {
        let days = days_from_civil(self.year.into(), self.month.into(), self.day.into());
        let (hour, minute) = (i64::from(self.hour), i64::from(self.minute));
        let seconds = days * DAY_S + hour * 3600 + minute * 60 + i64::from(self.second);
        Timestamp::from_unix_us(seconds * 1_000_000)
    }

    /// Year, month and day.
    pub fn date(self) -> (u16, u8, u8) {
        (self.year, self.month, self.day)
    }

    /// Hour, minute and second.
    pub fn time(self) -> (u8, u8, u8) {
        (self.hour, self.minute, self.second)
    }
}

impl fmt::Display for DateTime {
    /// As `2024-02-29T01:02:03`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl fmt::Debug for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DateTime {
    type Err = Error;

    /// Exactly `dddd-dd-ddTdd:dd:dd`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Limit, format!("'{}' is no date and time", text.escape_debug()))
                .hint("write it as 2024-02-29T01:02:03")
        };
        let bytes = text.as_bytes();
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let fits = |(byte, wanted): (&u8, &u8)| match wanted {
            b'd' => byte.is_ascii_digit(),
            _ => byte == wanted,
        };
        if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
            return Err(wrong());
        }
        let number = |at: usize, len: usize| text[at..at + len].parse::<u16>().unwrap_or(u16::MAX);
        // Two digits fit.
        let two = |at: usize| u8::try_from(number(at, 2)).unwrap_or(u8::MAX);
        Self::new((number(0, 4), two(5), two(8)), (two(11), two(14), two(17)))
    }
}

impl Serialize for DateTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&marker::of_date(*self))
    }
}

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        marker::date(&text).ok_or_else(|| serde::de::Error::custom("not a HermesDatetime(…)"))
    }
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, after Hinnant's `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The reverse.
fn civil_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
