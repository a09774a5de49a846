//! Several calls of one request side by side: each may wait for 45 s, and the client for no longer.
//!
//! The thread of the request works, too. Helpers come from a number that all requests share; without any, calls are
//! answered one after the other, as they would be without this module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder, Scope};

/// Helpers of all requests at a time: as many as there are places to wait.
const HELPERS: usize = 96;
/// As that of a connection.
const STACK: usize = 256 << 10;

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// One of the helpers.
struct Permit;

impl Permit {
    fn take() -> Option<Permit> {
        let permit = Permit;
        (AT_WORK.fetch_add(1, Ordering::SeqCst) < HELPERS).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Jobs that are still to be done, and the results of those that are.
struct Queue<J, R> {
    jobs: Mutex<std::iter::Enumerate<std::vec::IntoIter<J>>>,
    results: Mutex<Vec<Option<R>>>,
}

impl<J, R> Queue<J, R> {
    /// The next job with its number, and how many there are after it.
    fn next(&self) -> Option<(usize, J, usize)> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, job) = jobs.next()?;
        Some((number, job, jobs.len()))
    }

    /// Leaves `None` as the result of a job that panics.
    fn finish(&self, number: usize, job: J, work: &(impl Fn(J) -> R + Sync)) {
        let result = catch_unwind(AssertUnwindSafe(|| work(job))).ok();
        self.results.lock().unwrap_or_else(PoisonError::into_inner)[number] = result;
    }
}

/// The results of all jobs in their order; `None` for one that panicked.
pub fn side_by_side<J: Send, R: Send>(jobs: Vec<J>, work: impl Fn(J) -> R + Sync) -> Vec<Option<R>> {
    let results = Mutex::new(jobs.iter().map(|_| None).collect());
    let queue = Queue { jobs: Mutex::new(jobs.into_iter().enumerate()), results };
    thread::scope(|scope| {
        let mut helpers = 0;
        while let Some((number, job, left)) = queue.next() {
            // Again and again: those that another request needed may have come back.
            while helpers < left && start_helper(scope, &queue, &work) {
                helpers += 1;
            }
            queue.finish(number, job, &work);
        }
    });
    queue.results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// False if there is none left, or the system has no threads.
fn start_helper<'scope, 'env, J: Send, R: Send>(
    scope: &'scope Scope<'scope, 'env>,
    queue: &'scope Queue<J, R>,
    work: &'scope (impl Fn(J) -> R + Sync),
) -> bool {
    let Some(permit) = Permit::take() else { return false };
    let help = move || {
        let _permit = permit;
        while let Some((number, job, _)) = queue.next() {
            queue.finish(number, job, work);
        }
    };
    Builder::new().name("batch".into()).stack_size(STACK).spawn_scoped(scope, help).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn all_are_at_work_at_the_same_time_and_results_keep_their_order() {
        let all = Barrier::new(32);
        let work = |job: usize| {
            all.wait();
            job * 2
        };
        let expected: Vec<Option<usize>> = (0..32).map(|job| Some(job * 2)).collect();
        assert_eq!(side_by_side((0..32).collect(), work), expected);
        assert_eq!(side_by_side(vec![(); 0], |()| ()), []);
    }

    #[test]
    fn a_job_that_panics_costs_its_own_result_alone() {
        let work = |job: usize| if job == 3 { panic!("on purpose") } else { job };
        for _ in 0..50 {
            assert_eq!(side_by_side((0..6).collect(), work), [Some(0), Some(1), Some(2), None, Some(4), Some(5)]);
        }
    }
}
