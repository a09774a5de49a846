//! Times as text: the stamp (timestamp) of a record, and the times that users write.
//!
//! UTC only, Gregorian calendar, millisecond precision; days are computed with Howard Hinnant's algorithms,
//! <https://howardhinnant.github.io/date_algorithms.html>.

use std::time::{SystemTime, UNIX_EPOCH};

/// Length of `2026-01-02T03:04:05.678Z`, in bytes.
pub const STAMP_LEN: usize = 24;

const SECONDS_PER_DAY: u64 = 86_400;
/// The last millisecond whose year has four digits.
const MAX_MS: u64 = 253_402_300_799_999;

/// The current time in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Formats stamps. Consecutive stamps are mostly within the same second, which is formatted only once.
pub struct Stamper {
    second: u64,
    text: [u8; STAMP_LEN],
}

impl Stamper {
    /// A formatter with nothing cached.
    pub fn new() -> Stamper {
        Stamper { second: u64::MAX, text: *b"0000-00-00T00:00:00.000Z" }
    }

    /// Formats `ms`, milliseconds since 1970, as `2026-01-02T03:04:05.678Z`.
    pub fn stamp(&mut self, ms: u64) -> &[u8; STAMP_LEN] {
        let ms = ms.min(MAX_MS);
        let second = ms / 1000;
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil_from_days((second / SECONDS_PER_DAY) as i64);
            let time = (second % SECONDS_PER_DAY) as u32;
            let fields = [
                (0..4, year as u32),
                (5..7, month),
                (8..10, day),
                (11..13, time / 3600),
                (14..16, time / 60 % 60),
                (17..19, time % 60),
            ];
            for (range, value) in fields {
                write_digits(&mut self.text[range], value);
            }
        }
        write_digits(&mut self.text[20..23], (ms % 1000) as u32);
        &self.text
    }
}

/// Formats a single time, in milliseconds since 1970, for JSON and for people.
pub fn format_ms(ms: u64) -> String {
    String::from_utf8_lossy(Stamper::new().stamp(ms)).into_owned()
}

/// Whether `text` begins with something that looks like a stamp.
pub fn is_stamp(text: &[u8]) -> bool {
    let Some(text) = text.first_chunk::<STAMP_LEN>() else { return false };
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ";
    text.iter().zip(shape).all(|(&c, &s)| match s {
        b'd' => c.is_ascii_digit(),
        b'Z' => c == b'Z' || c == b'z',
        _ => c == s,
    })
}

/// Parses the stamp of a record into milliseconds since 1970; its last letter, which indicates the stream, may be `Z` or `z`.
/// `None` if it is not a stamp.
pub fn parse_stamp(text: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text[range].iter().fold(0u64, |n, &d| n * 10 + u64::from(d - b'0'));
    if !is_stamp(text) {
        return None;
    }
    let days = days_from_civil(number(0..4) as i64, number(5..7) as u32, number(8..10) as u32);
    let seconds =
        u64::try_from(days).ok()? * SECONDS_PER_DAY + number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    Some(seconds * 1000 + number(20..23))
}

/// Parses a time as users write it into milliseconds since 1970: ISO 8601 (`2026-01-02T03:04:05.678Z`; a space may replace
/// the `T`, seconds and fraction are optional, without a zone it is UTC, and a date alone is accepted), or an age such as
/// `30s`, `5m`, `2h`, `1d`, counted back from `now`.
///
/// # Errors
///
/// A message for the user if `text` is neither.
pub fn parse_time(text: &str, now: u64) -> Result<u64, String> {
    let text = text.trim();
    parse_age(text).map(|age| now.saturating_sub(age)).or_else(|| parse_iso(text)).ok_or_else(|| {
        format!("cannot read the time '{text}'; write 2026-01-02T03:04:05Z, or an age such as 30s, 5m, 2h, 1d")
    })
}

fn parse_age(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn parse_iso(text: &str) -> Option<u64> {
    let date = text.get(..10)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let rest = &text[10..];
    let (time, offset) = if rest.is_empty() { (0, 0) } else { parse_clock(rest.strip_prefix(['T', 't', ' '])?)? };
    let ms = days_from_civil(i64::from(year), month, day) * SECONDS_PER_DAY as i64 * 1000 + time - offset;
    u64::try_from(ms).ok()
}

/// Parses `03:04[:05[.678]]` and the zone after it: milliseconds since midnight, and the zone's offset in milliseconds.
fn parse_clock(text: &str) -> Option<(i64, i64)> {
    let zone_at = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (clock, zone) = text.split_at(zone_at);
    let (clock, fraction) = clock.split_once(['.', ',']).unwrap_or((clock, "0"));
    let [hour, minute, second] = match clock.len() {
        5 => numbers(clock, ':', [2, 2]).map(|[h, m]| [h, m, 0])?,
        _ => numbers(clock, ':', [2, 2, 2])?,
    };
    let fraction_fits = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    if hour > 23 || minute > 59 || second > 60 || !fraction_fits {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let offset = if zone.is_empty() || zone.eq_ignore_ascii_case("z") { 0 } else { parse_offset(zone)? };
    Some(((i64::from(hour) * 60 + i64::from(minute)) * 60_000 + i64::from(second) * 1000 + ms, offset))
}

/// Parses `+01`, `-0500` or `+02:30` into milliseconds.
fn parse_offset(zone: &str) -> Option<i64> {
    let (sign, size) = zone.split_at_checked(1)?;
    let [hours, minutes] = match size.len() {
        2 => numbers(size, ':', [2]).map(|[hours]| [hours, 0])?,
        4 => [numbers(size.get(..2)?, ':', [2])?, numbers(size.get(2..)?, ':', [2])?].map(|[number]| number),
        _ => numbers(size, ':', [2, 2])?,
    };
    let ms = i64::from(hours * 60 + minutes) * 60_000;
    match sign {
        _ if hours > 23 || minutes > 59 => None,
        "+" => Some(ms),
        "-" => Some(-ms),
        _ => None,
    }
}

/// Parses `N` numbers of exactly these widths, separated by `separator`.
fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[u32; N]> {
    let mut parts = text.split(separator);
    let mut values = [0; N];
    for (value, width) in values.iter_mut().zip(widths) {
        let part = parts.next().filter(|p| p.len() == width && p.bytes().all(|b| b.is_ascii_digit()))?;
        *value = part.parse().ok()?;
    }
    parts.next().is_none().then_some(values)
}

fn write_digits(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn days_in_month(year: u32, month: u32) -> u32 {
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (days_from_civil(i64::from(next.0), next.1, 1) - days_from_civil(i64::from(year), month, 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::{Random, cases};

    /// `date -u -d @1767323045` prints 2026-01-02T03:04:05.
    const KNOWN: (u64, &str) = (1_767_323_045_678, "2026-01-02T03:04:05.678Z");

    #[test]
    fn stamps_survive_a_round_trip() {
        assert_eq!(format_ms(KNOWN.0), KNOWN.1);
        assert_eq!(parse_stamp(KNOWN.1.as_bytes()), Some(KNOWN.0));
        let mut stamper = Stamper::new();
        let mut ms = 0;
        while ms < 4_200_000_000_000 {
            let text = *stamper.stamp(ms);
            assert_eq!(parse_stamp(&text), Some(ms), "{}", String::from_utf8_lossy(&text));
            ms += 86_399_001 * 17; // visits all hours, days and leap years
        }
        assert_eq!(format_ms(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(format_ms(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn text_that_is_not_a_stamp_is_not_parsed_as_one() {
        for text in [
            "",
            "2026-01-02T03:04:05.678",
            "2026-01-02 03:04:05.678Z",
            "2026-01-02T03:04:05.67xZ",
            "# persistproc: continues",
        ] {
            assert_eq!(parse_stamp(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_stamp(b"2026-01-02T03:04:05.678z+rest"), Some(KNOWN.0));
    }

    #[test]
    fn times_are_accepted_in_many_notations() {
        let at = KNOWN.0;
        let second = at - 678;
        for (text, expected) in [
            ("2026-01-02T03:04:05.678Z", at),
            ("2026-01-02T03:04:05.678", at),
            ("2026-01-02 03:04:05,6789", at),
            ("2026-01-02T03:04:05Z", second),
            ("2026-01-02T03:04", second - 5000),
            ("2026-01-02", second - 11_045_000),
            ("2026-01-02T05:34:05+02:30", second),
            ("2026-01-01T22:04:05-0500", second),
            ("2026-01-02T04:04:05+01", second),
            ("30s", 1_000_000 - 30_000),
            ("5 m", 1_000_000 - 300_000),
            ("250ms", 1_000_000 - 250),
            ("9d", 0),
        ] {
            assert_eq!(parse_time(text, 1_000_000), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_refused_with_an_example() {
        for text in [
            "",
            "yesterday",
            "5",
            "m",
            "5x",
            "-5m",
            "2026-13-01",
            "2026-02-30",
            "2026-01-02T24:00",
            "2026-01-02T03:04:05.",
            "2026-01-02Z03:04",
            "2026-1-2",
            "99999999999999999999d",
            "2026-01-02T03:04:05+1",
            "2026-01-02T03:04+1é1",
            "2026-01-02T03:04+éé",
            "2026-01-02T03:04+-1",
            "2026-01-02T03:04-+1+1",
            "2026-01-02T03:04+1:30",
            "2026-01-02T03:04+01:3",
            "2026-01-02T03:04+0:130",
            "2026-01-02T03:04+24:00",
            "2026-01-02T03:04+01:60",
            "2026-01-02T03:04Z+01",
            "2026-01-02T03:04Z01",
            "2026-01-02T03:04Zé",
            "ä026-01-02",
        ] {
            assert!(parse_time(text, 0).unwrap_err().contains("5m"), "{text}");
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused_and_all_notations_of_a_time_are_equal() {
        let tokens = [
            "2026",
            "1969",
            "-",
            "-",
            "01",
            "02",
            "31",
            "T",
            " ",
            "t",
            ":",
            ":",
            "03",
            "59",
            "60",
            ".",
            ",",
            "678",
            "Z",
            "z",
            "+",
            "1",
            "é",
            "ä",
            "0",
            "9",
            "24",
            "s",
            "ms",
            "d",
            "\u{200b}",
            "\u{663}",
            "18446744073709551615",
        ];
        let start = ["", "2026-01-02", "2026-01-02T", "2026-01-02T03:04", "2026-01-02T03:04:05.678", "5"];
        let mut random = Random::new(7);
        for _ in 0..cases() {
            let mut text = start[random.below(start.len())].to_string();
            (0..random.below(9)).for_each(|_| text.push_str(tokens[random.below(tokens.len())]));
            if let Ok(ms) = parse_time(&text, KNOWN.0) {
                assert!(ms > MAX_MS || parse_time(&format_ms(ms), 0) == Ok(ms), "{text}");
            }
        }
        for _ in 0..cases() / 10 {
            let ms = random.below(4_000_000) as u64 * 1_000_003;
            let (hours, minutes) = (random.below(24) as u64, random.below(60) as u64);
            let is_west = random.below(2) == 0 && ms >= SECONDS_PER_DAY * 1000;
            let offset = (hours * 60 + minutes) * 60_000;
            let local = format_ms(if is_west { ms - offset } else { ms + offset });
            let separator = ["T", "t", " "][random.below(3)];
            let colon = ["", ":"][random.below(2)];
            let sign = if is_west { '-' } else { '+' };
            let text = format!("{}{separator}{}{sign}{hours:02}{colon}{minutes:02}", &local[..10], &local[11..23]);
            assert_eq!(parse_time(&text, 0), Ok(ms), "{text}");
        }
    }
}
