//! The training loop: any [`Task`] with any update rule, resumable to the bit.
//!
//! A *task* turns a batch into a loss and its gradients, an *update rule* turns them into new weights,
//! and [`Trainer`] does the rest: schedule, accumulation, clipping, averaging, validation,
//! checkpoints that are whole or absent, metrics, progress and an orderly end on Ctrl-C.
//!
//! Everything random derives from the seed and the step, never from a generator's state, so a
//! resumed run continues exactly where the checkpoint stood.
//!
//! ```
//! use vlm_train::{Schedule, Shape};
//!
//! let schedule = Schedule {
//!     peak: 1e-3,
//!     warmup_steps: 10,
//!     total_steps: 100,
//!     shape: Shape::Cosine,
//!     final_ratio: 0.0,
//! };
//! assert!(schedule.at(0) < schedule.at(9));
//! assert!(schedule.at(99) < schedule.at(50));
//! ```
#![warn(missing_docs)]

mod average;
mod check;
mod checkpoint;
mod error;
mod features;
mod frozen;
mod grads;
mod memory;
mod metrics;
mod optimizer;
mod progress;
mod report;
mod rule;
mod run_dir;
mod schedule;
mod stop;
mod task;
mod trainer;

pub use average::Average;
pub use check::{Freedom, check_gradients, describe, moved_from_zero};
pub use checkpoint::{Checkpoint, Kept, Progressed, difference};
pub use error::{BoxError, Error};
pub use features::{FeatureCache, Vectors, stamp, stamp_folder};
pub use frozen::fingerprint;
pub use grads::Grads;
pub use memory::{keep_freed_memory, peak_memory};
pub use metrics::{MetricsError, MetricsLog, Record};
pub use optimizer::{AdamW, OptimConfig, Optimizer, RuleKind, Sgd};
pub use progress::Progress;
pub use report::{Card, Report, Series};
pub use rule::{Rule, Turn, Turned, Unturned};
pub use run_dir::{ADAPTER, RunDir};
pub use schedule::{Schedule, ScheduleError, Shape};
pub use stop::{StopError, StopFlag};
pub use task::{StepReport, Task, Validation};
pub use trainer::{Ending, TrainConfig, Trainer};
