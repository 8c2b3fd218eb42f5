//! Numbers, times and foreign text as people read them.

use chrono::{DateTime, FixedOffset, Local};

/// An RFC 3339 instant of the protos.
pub(crate) type Timestamp = prost_types::Timestamp;

/// 1234567 as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun, in the plural where that is due.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A large count in short: `134.5 M`.
pub(crate) fn short_count(number: u64) -> String {
    scaled(number, 1_000.0, &["", " k", " M", " B", " T"])
}

/// Bytes in decimal units: `19.4 MB`.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number, 1_000.0, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

fn scaled(number: u64, factor: f64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut place = 0;
    // 999.95 would be written 1000.0.
    while value >= factor - 0.05 && place + 1 < units.len() {
        value /= factor;
        place += 1;
    }
    match place {
        0 => format!("{number}{}", units[0]),
        _ => format!("{value:.1}{}", units[place]),
    }
}

/// A length of time: `0.4 s`, `12 s`, `2m 31s`, `1h 05m`, `3d 4h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes}m {rest:02}s"),
        (0, _, _) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// How long ago: `3 min ago`.
pub(crate) fn ago(then: &Timestamp, now: DateTime<Local>) -> String {
    let seconds = (now.timestamp() - then.seconds).max(0);
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The time of day: `16:08:03`.
pub(crate) fn clock(time: Option<&Timestamp>, zone: FixedOffset) -> String {
    formatted(time, zone, "%H:%M:%S").unwrap_or_else(|| "--:--:--".to_owned())
}

/// Day and time: `2026-11-24 16:08:03`.
pub(crate) fn date(time: &Timestamp) -> String {
    formatted(Some(time), here(), "%Y-%m-%d %H:%M:%S").unwrap_or_default()
}

/// The zone of this machine.
pub(crate) fn here() -> FixedOffset {
    *Local::now().offset()
}

fn formatted(time: Option<&Timestamp>, zone: FixedOffset, format: &str) -> Option<String> {
    let time = time?;
    let instant = DateTime::from_timestamp(time.seconds, time.nanos.try_into().ok()?)?;
    Some(instant.with_timezone(&zone).format(format).to_string())
}

/// A learning rate: `2.00e-4`, or `0`.
pub(crate) fn rate(number: f64) -> String {
    if number == 0.0 { "0".to_owned() } else { format!("{number:.2e}") }
}

/// A setting as somebody would write it: `0.0002` as `2e-4`, `0.1` as `0.1`.
pub(crate) fn setting(number: f64) -> String {
    match number.abs() {
        small if small > 0.0 && small < 0.001 => format!("{number:e}"),
        _ => format!("{number}"),
    }
}

/// A share: 0.384 as `38.4%`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A loss, in nats; what is not finite is absent in the protos.
pub(crate) fn loss(nats: Option<f64>) -> String {
    nats.map_or("not finite".to_owned(), |nats| format!("{nats:.4}"))
}

/// Foreign text for a terminal: what could steer it is written out.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => safe.push(letter),
            control if control.is_control() => safe.extend(control.escape_default()),
            plain => safe.push(plain),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_groups_of_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1_200, "row"), "1,200 rows");
    }

    #[test]
    fn sizes_take_the_unit_that_fits() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(short_count(134_515_008), "134.5 M");
        assert_eq!(short_count(12), "12");
    }

    #[test]
    fn times_take_the_two_units_that_matter() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (0.44, "0.4 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (151.0, "2m 31s"),
            (3_900.0, "1h 05m"),
            (273_600.0, "3d 4h"),
            (f64::NAN, "?"),
            (-1.0, "?"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_time_of_day_is_that_of_the_zone() {
        let noon = Timestamp { seconds: 1_764_000_483, nanos: 0 };
        let hour = |hours: i32| FixedOffset::east_opt(hours * 3600).expect("a zone");
        assert_eq!(clock(Some(&noon), hour(0)), "16:08:03");
        assert_eq!(clock(Some(&noon), hour(2)), "18:08:03");
        assert_eq!(clock(None, hour(0)), "--:--:--");
    }

    #[test]
    fn settings_are_written_as_people_do() {
        for (number, text) in [(0.0002, "2e-4"), (0.1, "0.1"), (1.0, "1"), (0.0, "0"), (1e-8, "1e-8"), (32.0, "32")] {
            assert_eq!(setting(number), text);
        }
        assert_eq!(rate(0.000_151_2), "1.51e-4");
        assert_eq!(rate(0.0), "0");
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\nc\td\u{7}"), "a\\u{1b}[31mb\\r\nc\td\\u{7}");
        assert_eq!(printable("Grüße, 世界"), "Grüße, 世界");
    }
}
