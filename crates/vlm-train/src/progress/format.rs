//! Numbers and times as short as they can be read.

use std::time::Duration;

/// Three significant digits: `3.21`, `0.0123`, `1.2e-3`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return format!("{value}").to_lowercase();
    }
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(0.01..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    let decimals = 2 - size.log10().floor() as i32;
    format!("{value:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// A rate: whole numbers unless it is slow.
pub(super) fn rate(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Minutes and seconds, with hours when there are any: `2:31`, `1:02:31`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, want) in [
            (3.2099, "3.21"),
            (-12.345, "-12.3"),
            (123.45, "123"),
            (12345.6, "12346"),
            (0.5, "0.500"),
            (0.0123, "0.0123"),
            (0.0012, "1.2e-3"),
            (2.5e7, "2.5e7"),
            (0.0, "0"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(number(value), want);
        }
    }

    #[test]
    fn rates_and_times_are_short() {
        assert_eq!(
            (rate(0.26), rate(9.96), rate(85.4)),
            ("0.3".into(), "10.0".into(), "85".into())
        );
        let of = |seconds| time(Duration::from_secs(seconds));
        assert_eq!(of(0), "0:00");
        assert_eq!(of(151), "2:31");
        assert_eq!(of(3599), "59:59");
        assert_eq!(of(3600 + 2 * 60 + 3), "1:02:03");
        assert_eq!(of(100 * 3600), "100:00:00");
    }
}
