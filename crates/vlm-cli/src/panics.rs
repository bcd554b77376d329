//! Panics as errors of one line.
//!
//! Picture decoders and device drivers may panic on what they are given; that is caught where
//! it happens. Anything else is a bug of this program, which ends with a line that says so.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

use crate::output;

/// Where the last panic was, and how the program got there if `RUST_BACKTRACE` asks for that.
static LAST: Mutex<(String, Option<Backtrace>)> = Mutex::new((String::new(), None));

/// Keeps panics off the terminal from now on: those that are expected are reported in our words.
pub fn quiet() {
    set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({at})")).unwrap_or_default();
        *last() = (place, Some(Backtrace::capture()));
    }));
}

fn last() -> MutexGuard<'static, (String, Option<Backtrace>)> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the program.
///
/// # Errors
/// Those of `program`, or its panic.
pub fn caught<T>(program: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(program)) {
        Ok(result) => result,
        Err(cause) => {
            let (place, trace) = std::mem::take(&mut *last());
            if let Some(trace) = trace.filter(|t| t.status() == BacktraceStatus::Captured) {
                output::note(&trace.to_string());
            }
            let reason = reason(cause.as_ref());
            bail!("this is a bug in vlm, please report it with RUST_BACKTRACE=1: {reason}{place}")
        }
    }
}

/// What a panic says, on one line.
pub fn reason(cause: &(dyn Any + Send)) -> String {
    let text = match (cause.downcast_ref::<&str>(), cause.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "no reason given",
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_one_line() {
        let error = caught::<()>(|| panic!("two\n  lines")).unwrap_err().to_string();
        assert!(error.contains("a bug in vlm") && error.contains("two lines"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(caught(|| Ok(1)).unwrap(), 1);
    }
}
