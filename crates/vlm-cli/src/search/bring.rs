//! Bringing an index up to date.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use burn::tensor::Device;
use vlm_contrastive::PictureSide;
use vlm_contrastive::index::{Index, Lock, Place, Skipped};
use vlm_train::{Progress, StopFlag};

use super::Args;
use super::title::plain;
use crate::output;

/// Reasons for skipping pictures that are told on the terminal.
const TOLD: usize = 5;
/// How often to look whether another process is done.
const WAIT: Duration = Duration::from_millis(200);

/// Computes what is missing, with progress on stderr. Says whether to go on: not after Ctrl-C.
///
/// `asks`: a question waits for the answer. `side` gets the opened model, if it was needed.
pub fn up_to_date(
    index: &mut Index,
    place: &Place,
    args: &Args,
    asks: bool,
    device: &Device,
    side: &mut Option<PictureSide>,
) -> Result<bool> {
    let stop = StopFlag::install()?;
    let mut waited = false;
    let lock = loop {
        match place.lock() {
            Ok(Some(lock)) => break lock,
            Ok(None) if asks && index.compared().ready > 0 => {
                let compared = index.compared();
                output::note(&format!(
                    "another process is updating the index; searching {} of {} pictures",
                    compared.ready,
                    compared.ready + compared.fresh
                ));
                return Ok(true);
            }
            Ok(None) => {
                if !waited {
                    output::note("another process is updating the index; waiting for it");
                }
                waited = true;
                std::thread::sleep(WAIT);
                if stop.is_set() {
                    return Ok(false);
                }
            }
            // Nothing has to be computed, only tidied up, which whoever may write can do.
            Err(_) if asks && index.compared().fresh == 0 => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    };
    // The other may have done all of it.
    *index = Index::open(place, &args.model)?;
    compute(index, &lock, args, device, side, &stop)
}

fn compute(
    index: &mut Index,
    lock: &Lock,
    args: &Args,
    device: &Device,
    side: &mut Option<PictureSide>,
    stop: &StopFlag,
) -> Result<bool> {
    let compared = index.compared();
    if compared.foreign && compared.fresh > 0 {
        output::note("the index is of another model; its pictures are looked at anew");
    }
    if compared.damaged > 0 {
        output::note("a part of the index is damaged; its pictures are looked at again");
    }
    if compared.fresh == 0 {
        index.tidy(lock)?;
        return Ok(true);
    }
    let side = match side {
        Some(side) => side,
        None => side.insert(PictureSide::open(&args.model, device)?),
    };
    let mut progress = Progress::new(compared.fresh as u64, 0, "indexing");
    let done = index.update(lock, side, &mut |step| {
        progress.tick(step.done as u64, step.more, &[]);
        !stop.is_set()
    });
    progress.finish();
    drop(progress);
    let done = done.map_err(output::blame(&args.model))?;
    tell_skipped(index, args);
    if !done {
        let compared = index.compared();
        output::note(&format!(
            "stopped: {} pictures are in the index and {} are missing; the same command goes on",
            compared.ready, compared.fresh
        ));
    }
    Ok(done)
}

/// Tells what was passed over, by reason.
fn tell_skipped(index: &Index, args: &Args) {
    let mut reasons: Vec<(String, PathBuf, usize)> = Vec::new();
    for Skipped { name, reason } in index.skipped() {
        match reasons.iter_mut().find(|(other, ..)| *other == reason) {
            Some((.., count)) => *count += 1,
            None => reasons.push((reason, name, 1)),
        }
    }
    for (reason, name, count) in reasons.iter().take(TOLD) {
        let path = plain(&args.images.join(name));
        let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        output::note(&format!("skipped {path}{more}: {reason}"));
    }
    if reasons.len() > TOLD {
        let more: usize = reasons[TOLD..].iter().map(|(.., count)| count).sum();
        output::note(&format!("skipped {more} more; --json names them"));
    }
}
