//! Lives through many histories on all processors: a number of seeds, or as many as there is time for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A seed whose history broke a promise, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The seed.
    pub seed: u64,
    /// The promise, in words.
    pub why: String,
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many seeds.
    Seeds(u64),
    /// As many as begin within this time.
    Time(Duration),
}

/// Lives through the histories of `first` and the seeds behind it. `add` takes what came of each; `look` is called now and
/// then. Ends at the first that breaks a promise.
///
/// # Errors
/// The first seed that was found to break a promise. A panic is a broken promise too.
pub fn search<S: Send>(
    first: u64,
    extent: Extent,
    live: impl Fn(u64) -> Result<S, String> + Sync,
    add: impl FnMut(S) + Send,
    mut look: impl FnMut(),
) -> Result<(), Broken> {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let broken: Mutex<Option<Broken>> = Mutex::new(None);
    let add = Mutex::new(add);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let is_enough = match extent {
                Extent::Seeds(count) => number >= count,
                Extent::Time(time) => begin.elapsed() >= time,
            };
            if is_enough || is_over.load(Ordering::Relaxed) {
                return;
            }
            let seed = first.wrapping_add(number);
            match safely(|| live(seed)) {
                Ok(summary) => lock(&add)(summary),
                Err(why) => {
                    is_over.store(true, Ordering::Relaxed);
                    let mut broken = lock(&broken);
                    if broken.as_ref().is_none_or(|earlier| earlier.seed > seed) {
                        *broken = Some(Broken { seed, why });
                    }
                }
            }
        }
    };
    std::thread::scope(|threads| {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers: Vec<_> = (0..count).map(|_| threads.spawn(work)).collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(50));
            look();
        }
    });
    let broken = lock(&broken).take();
    broken.map_or(Ok(()), Err)
}

/// One history; a panic is a broken promise.
///
/// # Errors
/// As the history.
pub fn safely<S>(live: impl FnOnce() -> Result<S, String>) -> Result<S, String> {
    catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|_| Err("a part of the product panicked".to_owned()))
}

/// A worker that panics does so outside of these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
