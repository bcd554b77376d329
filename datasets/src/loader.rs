//! Work on samples in threads, in order and with bounded memory.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Error;

/// How samples are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loader {
    /// Threads; at least one is used.
    pub workers: usize,
    /// Samples that may be prepared or in preparation before they are asked for.
    pub prefetch: usize,
}

/// Prepares `sample` of `batch`.
type Prepare<T, E> = dyn Fn(usize, usize) -> Result<T, E> + Send + Sync;

impl Loader {
    /// Calls `prepare(sample, batch number)` for the samples of each batch on worker threads
    /// and yields the batches in order, whatever the number of threads.
    ///
    /// Never more than `prefetch` samples, or one batch if that is larger, are held at a time.
    /// An error surfaces at its batch. Dropping the iterator stops the workers.
    pub fn run<T, E>(&self, batches: Vec<Vec<usize>>, prepare: Arc<Prepare<T, E>>) -> Batches<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        let held = self.prefetch.max(sizes.iter().copied().max().unwrap_or(0)).max(1);
        // A token lets a worker begin a sample; it comes back when the sample is handed out.
        let (give, take) = bounded(held);
        for _ in 0..held {
            // The channel has room for exactly these.
            let _ = give.send(());
        }
        let (finish, finished) = bounded(held);
        let jobs = Arc::new(Jobs {
            list: (0..batches.len())
                .flat_map(|b| batches[b].iter().map(move |sample| (*sample, b)).collect::<Vec<_>>())
                .collect(),
            next: AtomicUsize::new(0),
            turn: Mutex::new(()),
        });
        for _ in 0..self.workers.max(1) {
            let (jobs, prepare) = (Arc::clone(&jobs), Arc::clone(&prepare));
            let (take, finish) = (take.clone(), finish.clone());
            std::thread::spawn(move || work(&jobs, &*prepare, &take, &finish));
        }
        Batches { sizes: sizes.into_iter(), give, finished, early: BTreeMap::new(), next: 0 }
    }
}

struct Jobs {
    list: Vec<(usize, usize)>,
    next: AtomicUsize,
    turn: Mutex<()>,
}

impl Jobs {
    /// Waits for a token and takes the next job, in one go: so whoever waits for the oldest
    /// sample always finds that it has its token.
    fn next(&self, take: &Receiver<()>) -> Option<(usize, usize, usize)> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let place = self.next.load(Ordering::Relaxed);
        let (sample, batch) = *self.list.get(place)?;
        take.recv().ok()?;
        self.next.store(place + 1, Ordering::Relaxed);
        Some((place, sample, batch))
    }
}

fn work<T, E: From<Error>>(
    jobs: &Jobs,
    prepare: &Prepare<T, E>,
    take: &Receiver<()>,
    finish: &Sender<(usize, Result<T, E>)>,
) {
    while let Some((place, sample, batch)) = jobs.next(take) {
        let result = catch_unwind(AssertUnwindSafe(|| prepare(sample, batch)))
            .unwrap_or_else(|_| Err(E::from(Error::Worker(sample))));
        if finish.send((place, result)).is_err() {
            return;
        }
    }
}

/// The batches of [`Loader::run`].
pub struct Batches<T, E> {
    sizes: std::vec::IntoIter<usize>,
    give: Sender<()>,
    finished: Receiver<(usize, Result<T, E>)>,
    /// Samples that were finished before their turn.
    early: BTreeMap<usize, Result<T, E>>,
    next: usize,
}

impl<T, E: From<Error>> Iterator for Batches<T, E> {
    type Item = Result<Vec<T>, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.sizes.next()?;
        let mut batch = Vec::with_capacity(size);
        while batch.len() < size {
            let result = match self.early.remove(&self.next) {
                Some(result) => result,
                None => match self.finished.recv() {
                    Ok((place, result)) if place == self.next => result,
                    Ok((place, result)) => {
                        self.early.insert(place, result);
                        continue;
                    }
                    Err(_) => return Some(Err(E::from(Error::Worker(self.next)))),
                },
            };
            self.next += 1;
            let _ = self.give.send(());
            match result {
                Ok(item) => batch.push(item),
                Err(error) => {
                    // Nothing can follow: the workers stop when the channels close.
                    self.sizes = Vec::new().into_iter();
                    return Some(Err(error));
                }
            }
        }
        Some(Ok(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_order_within_the_bound() {
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let batches: Vec<Vec<usize>> =
            (0..100).collect::<Vec<_>>().chunks(4).map(<[usize]>::to_vec).collect();
        let prepare = Arc::new(move |sample: usize, batch: usize| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_micros((sample as u64 * 7919) % 300));
            Ok::<_, Error>((sample, batch))
        });
        let loader = Loader { workers: 3, prefetch: 6 };
        let mut seen = 0;
        for (number, batch) in loader.run(batches, prepare).enumerate() {
            let batch = batch.unwrap();
            assert_eq!(batch, (seen..seen + 4).map(|s| (s, number)).collect::<Vec<_>>());
            seen += 4;
            // What was handed out gave its token back; besides it at most six were begun.
            assert!(begun.load(Ordering::SeqCst) <= seen + 6);
        }
        assert_eq!(seen, 100);
    }

    #[test]
    fn errors_and_panics_surface_at_their_batch() {
        for panics in [false, true] {
            let prepare = Arc::new(move |sample: usize, _| match sample {
                5 if panics => panic!("on purpose"),
                5 => Err(Error::Worker(99)),
                sample => Ok(sample),
            });
            let loader = Loader { workers: 2, prefetch: 4 };
            let results: Vec<_> =
                loader.run(vec![vec![0, 1], vec![5, 2], vec![3, 4]], prepare).collect();
            assert_eq!(results.len(), 2);
            assert!(results[0].is_ok());
            let message = results[1].as_ref().unwrap_err().to_string();
            assert!(message.contains(if panics { "sample 5" } else { "sample 99" }), "{message}");
        }
    }
}
