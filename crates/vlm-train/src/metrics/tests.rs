use super::*;

struct Dir {
    _dir: tempfile::TempDir,
    log: PathBuf,
}

fn dir() -> Dir {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("metrics.jsonl");
    Dir { _dir: dir, log }
}

fn steps(path: &Path) -> Vec<u64> {
    MetricsLog::read(path).unwrap().iter().map(|record| record.step).collect()
}

#[test]
fn what_is_written_is_read() {
    let dir = dir();
    let mut log = MetricsLog::open(&dir.log, None).unwrap();
    log.write(1, 0, "train", &[("loss", 3.5), ("lr", 1e-3)]).unwrap();
    log.write(2, 1, "val", &[("loss", f64::NAN), ("top", f64::INFINITY)]).unwrap();
    let text = fs::read_to_string(&dir.log).unwrap();
    assert!(
        text.starts_with(r#"{"step":1,"epoch":0,"kind":"train","loss":3.5,"lr":0.001}"#),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("}\n") && text.contains(r#""loss":null"#), "{text}");
    let records = MetricsLog::read(&dir.log).unwrap();
    assert_eq!((records[0].step, records[0].epoch, records[0].kind.as_str()), (1, 0, "train"));
    assert_eq!(records[0].values, BTreeMap::from([("loss".into(), 3.5), ("lr".into(), 1e-3)]));
    assert_eq!((records[1].kind.as_str(), records[1].values.len()), ("val", 2));
    assert!(records[1].values["loss"].is_nan() && records[1].values["top"].is_nan());
}

#[test]
fn resuming_drops_later_steps_and_a_half_written_line_and_goes_on() {
    let dir = dir();
    let mut log = MetricsLog::open(&dir.log, None).unwrap();
    for step in 1..=5 {
        log.write(step, 0, "train", &[("loss", 1.0)]).unwrap();
    }
    log.file.write_all(br#"{"step":6,"epo"#).unwrap();
    drop(log);
    assert_eq!(steps(&dir.log), [1, 2, 3, 4, 5], "a reader is not troubled by half a line");
    let mut log = MetricsLog::open(&dir.log, Some(3)).unwrap();
    log.write(4, 0, "train", &[]).unwrap();
    assert_eq!(steps(&dir.log), [1, 2, 3, 4]);
    assert_eq!(fs::read_dir(dir.log.parent().unwrap()).unwrap().count(), 1, "leftovers");
}

#[test]
fn a_last_line_without_its_line_break_is_whole_and_stays_separate() {
    let dir = dir();
    fs::write(&dir.log, r#"{"step":1,"epoch":0,"kind":"train"}"#).unwrap();
    let mut log = MetricsLog::open(&dir.log, Some(1)).unwrap();
    log.write(2, 0, "train", &[]).unwrap();
    assert_eq!(steps(&dir.log), [1, 2]);
}

#[test]
fn opening_without_a_step_keeps_every_record() {
    let dir = dir();
    for step in [1, 2] {
        let mut log = MetricsLog::open(&dir.log, None).unwrap();
        log.write(step, 0, "train", &[]).unwrap();
        log.file.write_all(b"{").unwrap();
    }
    assert_eq!(steps(&dir.log), [1, 2]);
}

#[test]
fn resuming_without_a_log_starts_one() {
    let dir = dir();
    MetricsLog::open(&dir.log, Some(7)).unwrap().write(8, 0, "val", &[]).unwrap();
    assert_eq!(steps(&dir.log), [8]);
}

#[test]
fn a_damaged_line_in_the_middle_is_named_and_left_alone() {
    let dir = dir();
    let text = "{\"step\":1,\"epoch\":0,\"kind\":\"train\"}\n\0\0\n{\"step\":2,\"epoch\":0,\"kind\":\"val\"}\n";
    fs::write(&dir.log, text).unwrap();
    for result in
        [MetricsLog::read(&dir.log).map(drop), MetricsLog::open(&dir.log, Some(1)).map(drop)]
    {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("metrics.jsonl"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    assert_eq!(fs::read_to_string(&dir.log).unwrap(), text);
}

#[test]
fn taken_names_are_refused_before_anything_is_written() {
    let dir = dir();
    let mut log = MetricsLog::open(&dir.log, None).unwrap();
    for values in [&[("step", 1.0)][..], &[("a", 1.0), ("a", 2.0)]] {
        let message = log.write(1, 0, "train", values).unwrap_err().to_string();
        assert!(message.contains("is taken"), "{message}");
    }
    assert_eq!(fs::metadata(&dir.log).unwrap().len(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_with_a_remedy() {
    // /dev/full refuses every write as a full disk does.
    let path = PathBuf::from("/dev/full");
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    let mut log = MetricsLog { path, file, length: 0 };
    let message = log.write(1, 0, "train", &[]).unwrap_err().to_string();
    assert!(message.starts_with("/dev/full: "), "{message}");
    assert!(message.contains("free some space") && !message.contains('\n'), "{message}");
}

/// A file that may not grow further refuses the rest of a line, as a disk does that is full to
/// the last block. The limit is the process's, so this test runs itself again as a child.
#[cfg(target_os = "linux")]
#[test]
fn a_write_that_fails_halfway_leaves_no_half_line() {
    use std::process::Command;

    const LOG: &str = "VLM_TRAIN_METRICS_TEST_LOG";
    if let Some(path) = std::env::var_os(LOG).map(PathBuf::from) {
        let mut log = MetricsLog::open(&path, None).unwrap();
        let written =
            (0..1000).take_while(|step| log.write(*step, 0, "train", &[]).is_ok()).count();
        assert!((1..1000).contains(&written));
        assert!(log.write(1, 0, "train", &[]).is_err());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), text.ends_with("}\n")), (written, true), "{text}");
        return;
    }
    let dir = dir();
    let name = concat!(module_path!(), "::a_write_that_fails_halfway_leaves_no_half_line");
    let (_, name) = name.split_once("::").unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 1; trap '' XFSZ; exec \"$0\" --exact \"$1\" --test-threads=1"])
        .args([std::env::current_exe().unwrap().as_os_str(), name.as_ref()])
        .env(LOG, &dir.log)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(fs::metadata(&dir.log).unwrap().len() > 0);
}
