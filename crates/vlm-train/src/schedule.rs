//! The learning rate as a function of the step: warm-up, then a constant, a line or half a
//! cosine.

use serde::{Deserialize, Serialize};

/// What happens after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Shape {
    /// The peak until the end; `final_ratio` plays no part.
    Constant,
    /// A straight line from the peak to the final rate.
    Linear,
    /// Half a cosine from the peak to the final rate.
    #[default]
    Cosine,
}

/// A learning rate for every step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The highest learning rate, reached at the last step of the warm-up.
    pub peak: f64,
    /// Steps that climb to the peak in equal parts; 0 starts at the peak.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Steps of the whole run, the warm-up among them.
    pub total_steps: u64,
    /// What happens after the warm-up.
    #[serde(default)]
    pub shape: Shape,
    /// The final rate as a part of the peak, 0 to 1.
    #[serde(default)]
    pub final_ratio: f64,
}

/// Why a schedule makes no sense. Every message is one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The peak is negative, infinite or not a number.
    #[error("learning rate {0} makes no sense; it must be a number from 0 up, such as 1e-3")]
    Peak(f64),
    /// The final ratio is not within 0 to 1.
    #[error("final_ratio {0} makes no sense; it must be from 0 to 1")]
    FinalRatio(f64),
    /// The warm-up would never end.
    #[error("warmup_steps ({warmup}) must be fewer than the {total} steps of the run")]
    Warmup {
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps of the run.
        total: u64,
    },
}

impl Schedule {
    /// Looks for values that make no sense, to be called before any data is read.
    ///
    /// # Errors
    /// The first such value, with what is allowed.
    pub fn check(&self) -> Result<(), ScheduleError> {
        if !(self.peak.is_finite() && self.peak >= 0.0) {
            return Err(ScheduleError::Peak(self.peak));
        }
        if !(0.0..=1.0).contains(&self.final_ratio) {
            return Err(ScheduleError::FinalRatio(self.final_ratio));
        }
        if self.warmup_steps > 0 && self.warmup_steps >= self.total_steps {
            return Err(ScheduleError::Warmup {
                warmup: self.warmup_steps,
                total: self.total_steps,
            });
        }
        Ok(())
    }

    /// The learning rate of `step`, counted from 0.
    ///
    /// The first step of a warm-up takes `peak / warmup_steps`, never 0, since a step at rate 0
    /// is a wasted step. For the same reason the last step stops just short of the final rate,
    /// which is reached at `total_steps` and kept from there on.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step as f64 + 1.0) / self.warmup_steps as f64;
        }
        let steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let gone = ((step - self.warmup_steps) as f64 / steps as f64).min(1.0);
        let part = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - gone,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * gone).cos()),
        };
        let lowest = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear | Shape::Cosine => self.final_ratio,
        };
        self.peak * (lowest + (1.0 - lowest) * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape) -> Schedule {
        Schedule { peak: 2.0, warmup_steps: 4, total_steps: 12, shape, final_ratio: 0.1 }
    }

    #[track_caller]
    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} is not {want}");
    }

    #[test]
    fn warmup_climbs_in_equal_parts_to_the_peak() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            let schedule = schedule(shape);
            for (step, want) in [(0, 0.5), (1, 1.0), (2, 1.5), (3, 2.0), (4, 2.0)] {
                close(schedule.at(step), want);
            }
        }
    }

    #[test]
    fn decay_follows_numbers_worked_by_hand() {
        // Eight steps after the warm-up; the peak is 2, the final rate 0.2.
        let linear = schedule(Shape::Linear);
        close(linear.at(8), 1.1); // halfway: (2 + 0.2) / 2
        close(linear.at(11), 0.2 + 1.8 / 8.0); // one eighth is left
        let cosine = schedule(Shape::Cosine);
        close(cosine.at(6), 0.2 + 1.8 * 0.853_553_390_593_273_8); // (1 + cos 45°) / 2
        close(cosine.at(8), 1.1);
        close(cosine.at(10), 0.2 + 1.8 * 0.146_446_609_406_726_24); // (1 + cos 135°) / 2
        close(schedule(Shape::Constant).at(11), 2.0);
    }

    #[test]
    fn the_final_rate_is_reached_at_the_end_and_kept() {
        for (shape, want) in [(Shape::Linear, 0.2), (Shape::Cosine, 0.2), (Shape::Constant, 2.0)] {
            close(schedule(shape).at(12), want);
            close(schedule(shape).at(u64::MAX), want);
        }
    }

    #[test]
    fn without_warmup_the_first_step_is_the_peak_and_nothing_divides_by_zero() {
        let mut schedule = schedule(Shape::Cosine);
        schedule.warmup_steps = 0;
        close(schedule.at(0), 2.0);
        schedule.total_steps = 0;
        close(schedule.at(0), 2.0);
        close(schedule.at(1), 0.2);
        schedule.warmup_steps = 3;
        close(schedule.at(2), 2.0);
        close(schedule.at(9), 0.2);
    }

    #[test]
    fn nonsense_is_refused_with_the_allowed_range() {
        let good = schedule(Shape::Linear);
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Schedule { peak: f64::NAN, ..good.clone() },
            Schedule { peak: -1.0, ..good.clone() },
            Schedule { final_ratio: 1.5, ..good.clone() },
            Schedule { final_ratio: f64::NAN, ..good.clone() },
            Schedule { warmup_steps: 12, ..good.clone() },
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains("must be") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_file_may_leave_out_what_has_a_default_but_not_misspell() {
        let read = |text: &str| serde_json::from_str::<Schedule>(text);
        let schedule = read(r#"{"peak":1e-3,"total_steps":10}"#).unwrap();
        assert_eq!((schedule.warmup_steps, schedule.shape), (0, Shape::Cosine));
        assert_eq!(read(&serde_json::to_string(&schedule).unwrap()).unwrap(), schedule);
        let message = read(r#"{"peak":1,"total_steps":1,"warmup":1}"#).unwrap_err().to_string();
        assert!(message.contains("`warmup`") && message.contains("`warmup_steps`"), "{message}");
        assert!(read(r#"{"peak":1,"total_steps":1,"shape":"Cosine"}"#).is_err());
    }
}
