//! Runs whose loss stopped being a number, for whoever looks at many of them.

use std::path::Path;

use vlm_train::{MetricsLog, RunDir};

/// What the last record of such a run is.
const KIND: &str = "diverged";

/// Notes in the log of a run that it came to this. That this may fail, too, is no reason to say less of why the
/// run did.
pub fn record(run: &RunDir, step: u64, epoch: u64) {
    let log = MetricsLog::open(&run.file("metrics.jsonl"), None);
    let _ = log.and_then(|mut log| log.write(step, epoch.saturating_sub(1), KIND, &[]));
}

/// Whether the run in the folder came to this. With the same settings it will again.
pub fn is(dir: &Path) -> bool {
    let records = MetricsLog::read(&dir.join("metrics.jsonl")).unwrap_or_default();
    records.last().is_some_and(|record| record.kind == KIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_last_record_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunDir::open(&path, false).unwrap();
        assert!(!is(&path));
        record(&run, 3, 1);
        assert!(is(&path));
        let mut log = MetricsLog::open(&run.file("metrics.jsonl"), Some(2)).unwrap();
        log.write(3, 0, "train", &[("loss", 1.0)]).unwrap();
        assert!(!is(&path), "gone on with from the step before");
    }
}
