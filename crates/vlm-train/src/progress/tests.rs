use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Screen {
    bytes: Arc<Mutex<Vec<u8>>>,
    milliseconds: Arc<AtomicU64>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn progress(&self, total: u64, start: u64, terminal: bool) -> Progress {
        let time = self.milliseconds.clone();
        let clock = move || Duration::from_millis(time.load(Ordering::Relaxed));
        Progress::with_output(total, start, "", self.clone(), terminal, clock)
    }

    fn at(&self, milliseconds: u64) {
        self.milliseconds.store(milliseconds, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    /// What is left to see of it: a carriage return goes back, a line break goes on.
    fn seen(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        for part in self.text().split_inclusive(['\r', '\n']) {
            let (text, end) = match part.char_indices().next_back() {
                Some((at, end @ ('\r' | '\n'))) => (&part[..at], Some(end)),
                _ => (part, None),
            };
            let (_, text) = text.rsplit_once("[?7l").unwrap_or(("", text));
            let text = text.replace(END_LINE, "").replace("\x1b[K", "");
            if !part.is_empty() && !text.is_empty() {
                *lines.last_mut().unwrap() = text;
            }
            if end == Some('\n') {
                lines.push(String::new());
            }
        }
        lines
    }
}

#[test]
fn the_line_says_what_the_documentation_shows() {
    let screen = Screen::default();
    let mut progress = screen.progress(640, 0, false);
    "train".clone_into(&mut progress.label);
    screen.at(151_000);
    progress.tick(120, 12835, &[("loss", 3.2149), ("lr", 1.2e-3)]);
    assert_eq!(
        screen.text(),
        "train  step 120/640 (18 %)  loss 3.21  lr 1.2e-3  85 img/s  2:31 gone, 10:54 left\n"
    );
}

#[test]
fn a_log_gets_a_line_at_the_start_every_fifteen_seconds_and_at_the_end() {
    let screen = Screen::default();
    let mut progress = screen.progress(40, 0, false).unit("token");
    for step in 1..=40 {
        screen.at(step * 1000);
        progress.tick(step, 8, &[]);
    }
    progress.finish();
    progress.finish();
    drop(progress);
    let text = screen.text();
    let steps: Vec<_> = text.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(steps, ["1/40", "16/40", "31/40", "40/40"]);
    assert!(text.ends_with("(100 %)  8.0 token/s  0:40 gone, 0:00 left\n"), "{text}");
    assert!(!text.contains(['\r', '\x1b']), "{text:?}");
}

#[test]
fn the_end_is_not_said_twice() {
    let screen = Screen::default();
    let mut progress = screen.progress(1, 0, false);
    screen.at(1000);
    progress.tick(1, 1, &[]);
    progress.finish();
    assert_eq!(screen.text().lines().count(), 1);
}

#[test]
fn a_terminal_is_redrawn_five_times_a_second_on_one_line() {
    let screen = Screen::default();
    let mut progress = screen.progress(100, 0, true);
    for step in 1..=100 {
        screen.at(step * 10);
        progress.tick(step, 1, &[]);
    }
    let drawn = screen.text().matches(BEGIN_LINE).count();
    assert_eq!(drawn, 5, "one second of ticks");
    assert_eq!(screen.text().matches('\n').count(), 0);
    drop(progress);
    let seen = screen.seen();
    assert!(seen[0].starts_with("step 100/100 (100 %)"), "{seen:?}");
    assert_eq!((seen.len(), seen[1].as_str()), (2, ""), "{seen:?}");
}

#[test]
fn a_message_stands_alone_above_the_line() {
    let screen = Screen::default();
    let mut progress = screen.progress(10, 0, true);
    progress.message("before");
    progress.tick(1, 1, &[("a_long_field", 1.0)]);
    progress.message("saved");
    let seen = screen.seen();
    assert_eq!(seen[..2], ["before", "saved"], "{seen:?}");
    assert!(seen[2].starts_with("step 1/10"), "{seen:?}");
    progress.finish();
    progress.message("after");
    assert_eq!(screen.seen()[3], "after");
}

#[test]
fn a_resumed_run_counts_only_what_it_does_itself() {
    let screen = Screen::default();
    let mut progress = screen.progress(200, 100, false);
    screen.at(10_000);
    progress.tick(110, 320, &[]);
    let text = screen.text();
    assert_eq!(text, "step 110/200 (55 %)  32 img/s  0:10 gone, 1:30 left\n");
}

#[test]
fn odd_counts_and_a_closed_output_do_no_harm() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut progress = Progress::with_output(1, 0, "train", Closed, true, || Duration::ZERO);
    progress.tick(1, 1, &[]);
    progress.message("lost");

    let screen = Screen::default();
    let mut progress = screen.progress(0, 9, false);
    progress.tick(3, usize::MAX, &[]);
    assert_eq!(screen.text(), "step 3/0 (100 %)  0:00 gone\n");
}

#[test]
fn what_takes_minutes_is_counted_by_the_hour() {
    let screen = Screen::default();
    let mut progress = screen.progress(24, 0, false).unit("run");
    for run in 1..=3 {
        screen.at(run * 180_000);
        progress.tick(run, 1, &[]);
    }
    progress.finish();
    let text = screen.text();
    assert!(text.ends_with("step 3/24 (12 %)  20 run/h  9:00 gone, 1:03:00 left\n"), "{text}");
}
