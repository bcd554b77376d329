//! Where the marks of an axis stand and what is written at them.

/// The range of an axis, never empty, and its marks.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    /// Position and label, within the range and in order.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis over `values`, widened by `margin` (a part of their range) at both ends, with
    /// about `count` marks at round numbers.
    pub fn over(values: impl Iterator<Item = f64>, margin: f64, count: usize) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let size = low.abs().max(high.abs());
        if high - low <= size * 1e-5 {
            // All the same, or with a difference that no label could show: something to both sides, so that the line runs through the middle.
            let room = if size > 0.0 { size * 0.1 } else { 1.0 };
            (low, high) = (low - room, high + room);
        } else {
            let room = (high - low) * margin;
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / count.max(1) as f64);
        Axis { low, high, ticks: ticks(low, high, step) }
    }

    /// Where `value` lies: 0 at the low end, 1 at the high end.
    pub fn part(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is no smaller than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    // A hair of slack: 0.1 / 0.1 may come out a little above 1.
    let fits = |factor: &f64| *factor * power >= least * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

fn ticks(low: f64, high: f64, step: f64) -> Vec<(f64, String)> {
    let first = (low / step).ceil();
    let largest = low.abs().max(high.abs());
    // The bound only guards against a step that is lost beside a large value.
    (0..50)
        .map(|index| (first + f64::from(index)) * step)
        .take_while(|value| *value <= high + step * 1e-9)
        .map(|value| (value, label(value, step, largest)))
        .collect()
}

fn label(value: f64, step: f64, largest: f64) -> String {
    let exponent = |x: f64| x.log10().floor() as i32;
    // The mark at zero may come out as a rounding error.
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    if !(1e-3..1e6).contains(&largest) {
        if value == 0.0 {
            return "0".to_owned();
        }
        let digits = usize::try_from(exponent(value.abs()) - exponent(step)).unwrap_or(0);
        return format!("{value:.digits$e}");
    }
    let decimals = usize::try_from(-exponent(step)).unwrap_or(0);
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        let axis = Axis::over([low, high].into_iter(), 0.0, 5);
        axis.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn marks_stand_at_round_numbers() {
        assert_eq!(labels(0.0, 10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(0.13, 0.92), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels(-1.0, 1.0), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 640.0), ["0", "200", "400", "600"]);
        assert_eq!(labels(0.0, 5e-4), ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4"]);
        assert_eq!(labels(3e6, 4e6), ["3.0e6", "3.2e6", "3.4e6", "3.6e6", "3.8e6", "4.0e6"]);
    }

    #[test]
    fn every_range_has_an_axis() {
        for (low, high) in [
            (0.0, 0.0),
            (3.0, 3.0),
            (-1e150, 1e150),
            (1e9, 1e9 + 1e-6),
            (1.0, 1.0 + 1e-8),
            (0.0, 5e-324),
            (-1e-150, 1e-150),
        ] {
            let axis = Axis::over([low, high].into_iter(), 0.05, 5);
            assert!(axis.low < axis.high, "{low} to {high}: {axis:?}");
            assert!(axis.low <= low && high <= axis.high, "{low} to {high}: {axis:?}");
            assert!((0.0..=1.0).contains(&axis.part(low)), "{low} to {high}: {axis:?}");
            for (value, _) in &axis.ticks {
                assert!(*value >= axis.low - 1e-9 * axis.low.abs() && axis.part(*value) <= 1.0);
            }
            let mut labels: Vec<&str> =
                axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
            assert!(labels.iter().all(|label| label.len() <= 12), "too wide: {labels:?}");
            labels.dedup();
            assert!(labels.len() == axis.ticks.len() && labels.len() <= 12, "{:?}", axis.ticks);
        }
        let empty = Axis::over(std::iter::empty(), 0.0, 5);
        assert_eq!((empty.low, empty.high), (0.0, 1.0));
    }
}
