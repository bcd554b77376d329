//! How fast a run goes: the rate of the last half minute, and the time that is left.

use std::collections::VecDeque;
use std::time::Duration;

/// What the rate averages over.
const WINDOW: Duration = Duration::from_secs(30);

pub(super) struct Pace {
    began: Duration,
    first_step: u64,
    step: u64,
    samples: u64,
    /// Moments with the samples counted until then. The first lies outside the window or at the
    /// beginning, so that the window is covered whole; there are never more than one a
    /// hundredth of the window.
    marks: VecDeque<(Duration, u64)>,
}

impl Pace {
    pub fn new(now: Duration, first_step: u64) -> Self {
        let marks = VecDeque::from([(now, 0)]);
        Pace { began: now, first_step, step: first_step, samples: 0, marks }
    }

    pub fn add(&mut self, now: Duration, step: u64, samples: u64) {
        self.step = step;
        self.samples = self.samples.saturating_add(samples);
        // The newest mark moves until it is far enough from the one before to stay.
        let settled = |marks: &VecDeque<(Duration, u64)>| match marks.len() {
            0 | 1 => true,
            n => marks[n - 1].0.saturating_sub(marks[n - 2].0) >= WINDOW / 100,
        };
        if !settled(&self.marks) {
            self.marks.pop_back();
        }
        self.marks.push_back((now, self.samples));
        while self.marks.get(1).is_some_and(|mark| now.saturating_sub(mark.0) >= WINDOW) {
            self.marks.pop_front();
        }
    }

    /// Samples a second.
    pub fn rate(&self) -> Option<f64> {
        let ((from, before), (to, after)) = (*self.marks.front()?, *self.marks.back()?);
        let seconds = to.saturating_sub(from).as_secs_f64();
        (seconds > 0.0).then(|| (after - before) as f64 / seconds)
    }

    /// Time since the beginning.
    pub fn gone(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    /// Time that the steps up to `total` will take at the average pace so far.
    pub fn left(&self, now: Duration, total: u64) -> Option<Duration> {
        let done = self.step.checked_sub(self.first_step).filter(|&done| done > 0)?;
        let remaining = total.saturating_sub(self.step);
        let seconds = self.gone(now).as_secs_f64() / done as f64 * remaining as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_rate_forgets_what_is_older_than_the_window() {
        let mut pace = Pace::new(at(0.0), 0);
        assert_eq!(pace.rate(), None);
        for second in 1..=40 {
            pace.add(at(f64::from(second)), 0, 1000);
        }
        for second in 41..=71 {
            pace.add(at(f64::from(second)), 0, 10);
        }
        assert_eq!(pace.rate(), Some(10.0));
    }

    #[test]
    fn steps_longer_than_the_window_still_have_a_rate() {
        let mut pace = Pace::new(at(0.0), 0);
        pace.add(at(100.0), 1, 500);
        pace.add(at(200.0), 2, 700);
        assert_eq!(pace.rate(), Some(7.0));
    }

    #[test]
    fn fast_steps_cost_little_memory_and_lose_no_samples() {
        let mut pace = Pace::new(at(0.0), 0);
        for tick in 1..=100_000 {
            pace.add(at(f64::from(tick) / 1000.0), 0, 2);
        }
        assert!(pace.marks.len() < 110, "{}", pace.marks.len());
        let rate = pace.rate().unwrap();
        assert!((rate - 2000.0).abs() < 1e-6, "{rate}");
    }

    #[test]
    fn time_left_counts_remaining_steps_at_the_pace_of_this_run() {
        let mut pace = Pace::new(at(5.0), 100);
        assert_eq!(pace.left(at(5.0), 400), None);
        pace.add(at(25.0), 110, 1); // ten steps in twenty seconds
        assert_eq!(pace.left(at(25.0), 400), Some(at(580.0)));
        assert_eq!(pace.left(at(25.0), 60), Some(at(0.0)));
        assert!(pace.left(at(25.0), u64::MAX).is_none_or(|left| left > at(1e18)));
    }
}
