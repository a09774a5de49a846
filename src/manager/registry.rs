//! Runs on disk → a table in memory. Reading `runs/` is how every server begins, after a crash or not: there is no
//! second way. What cannot be read is reported and left alone, and never hides the rest.

use super::launch::UNFINISHED_PREFIX;
use super::watch::{self, OnEnd, Run};
use crate::lease;
use crate::os_text::OsText;
use crate::rundir::{FORMAT_VERSION, Meta, RunDir, Unreadable};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Finished runs that are kept; older ones are removed. Live ones never are, nor are lost ones of which something is
/// alive (only their directories tell what that is), nor what is being read.
pub const KEPT: usize = 50;
/// Among so many older ones, the newest run of each label is kept, too, so that the last words of a crashed server are
/// there also after many short commands.
pub const LABELS_KEPT: usize = 500;

pub struct Registry {
    pub dir: PathBuf,
    table: Mutex<Table>,
    notify: Notify,
}

/// Takes what belongs into the server's log. Never waits.
pub type Notify = Box<dyn Fn(String) + Send + Sync>;

#[derive(Default)]
struct Table {
    runs: BTreeMap<u64, Arc<Run>>,
    next: u64,
}

impl Registry {
    /// Reads the directory of all runs, which must exist.
    pub fn open(dir: PathBuf, notify: Notify) -> io::Result<Arc<Registry>> {
        let registry = Arc::new(Registry { dir, table: Mutex::default(), notify });
        let found = registry.scan()?;
        registry.lock().next = found.last_key_value().map_or(1, |(id, _)| id + 1);
        let mut kept = Kept::default();
        let mut old = Vec::new();
        for (id, dir) in found.into_iter().rev() {
            let mut meta = None;
            let label = || match meta.insert(dir.read_meta()) {
                Ok(meta) => meta.label.clone(),
                Err(_) => substitute(&dir).label,
            };
            let is_kept = kept.keeps(dir.is_shim_alive(), label) || dir.has_pending_order();
            match (is_kept, meta) {
                (true, Some(meta)) => registry.load(id, dir, meta),
                _ => old.push((id, dir)),
            }
        }
        let remover = registry.clone();
        let remove = move || old.into_iter().for_each(|(id, dir)| remover.clear(id, dir));
        std::thread::Builder::new().name("clean-up".into()).spawn(remove).map(drop)?;
        Ok(registry)
    }

    fn scan(&self) -> io::Result<BTreeMap<u64, RunDir>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let dir = RunDir(entry.path());
            if name.starts_with(UNFINISHED_PREFIX) {
                // Its server was killed while it made this; we hold the server's lock, so no server is making it now.
                let _ = fs::remove_dir_all(dir.path());
            } else if let Some(id) =
                dir.number().filter(|_| dir.lock().exists() || dir.path().join("meta.json").exists())
            {
                found.insert(id, dir);
            } else {
                self.notice(format!("left alone, not a run: {}", dir.path().display()));
            }
        }
        Ok(found)
    }

    fn load(self: &Arc<Registry>, id: u64, dir: RunDir, meta: Result<Meta, Unreadable>) {
        let meta = match meta {
            Ok(meta) => meta,
            Err(Unreadable::Newer(version)) => {
                return self.notice(format!(
                    "left alone: {} was written by a newer persistproc (format {version})",
                    dir.path().display()
                ));
            }
            Err(problem) => {
                let what = super::describe_unreadable(&problem);
                self.notice(format!("{}: meta.json {what}, so this run cannot be started again", dir.path().display()));
                substitute(&dir)
            }
        };
        let run = Arc::new(Run::new(id, dir, meta));
        self.adopt(run, None);
    }

    /// Takes a run into the table and follows it to its end.
    pub fn adopt(self: &Arc<Registry>, run: Arc<Run>, shim: Option<std::process::Child>) {
        self.lock().runs.insert(run.id, run.clone());
        let registry = self.clone();
        let on_end: OnEnd = Box::new(move |run| {
            let status = run.status();
            registry.notice(format!("{} '{}' {}", run.name(), run.meta.label, super::describe_end(&status)));
            if let Some(pids) = super::lost::shown(&run.orphans()) {
                registry.notice(format!("{} has left behind {pids}, who live on until it is stopped", run.name()));
            }
            registry.retire();
        });
        if let Err(problem) = run.follow(shim, on_end) {
            self.notice(format!("{}: {problem}", run.dir.path().display()));
        }
    }

    /// The number of the next run. Numbers are never given twice, also if the run then cannot be started.
    pub fn next_id(&self) -> u64 {
        let mut table = self.lock();
        table.next = table.next.max(1);
        table.next += 1;
        table.next - 1
    }

    /// All runs, oldest first, each as it is now.
    pub fn all(&self) -> Vec<Arc<Run>> {
        let runs: Vec<Arc<Run>> = self.lock().runs.values().cloned().collect();
        runs.iter().for_each(|run| run.catch_up());
        runs
    }

    pub fn get(&self, id: u64) -> Option<Arc<Run>> {
        self.lock().runs.get(&id).cloned()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Removes finished runs that are not kept, see [`Kept`].
    pub fn retire(&self) {
        let mut kept = Kept::default();
        for run in self.all().into_iter().rev() {
            let is_kept = kept.keeps(!run.is_over(), || run.meta.label.clone());
            let is_needed = || lease::is_needed(run.dir.path(), run.id) || run.dir.has_pending_order();
            if !is_kept && !run.may_have_orphans() && !is_needed() {
                self.lock().runs.remove(&run.id);
                self.remove(&run.dir);
            }
        }
        lease::remove_stale(self.data_dir());
    }

    /// Removes an old run that is not in the table, or takes it there if it is being read, or was lost and something of it
    /// is alive.
    fn clear(self: &Arc<Registry>, id: u64, dir: RunDir) {
        let is_needed = watch::may_have_left_somebody(&dir) || lease::is_needed(dir.path(), id);
        if is_needed {
            let meta = dir.read_meta();
            self.load(id, dir, meta);
        } else {
            self.remove(&dir);
        }
    }

    fn remove(&self, dir: &RunDir) {
        if matches!(dir.read_meta(), Err(Unreadable::Newer(_))) {
            return;
        }
        if let Err(error) = fs::remove_dir_all(dir.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            self.notice(format!("cannot remove the old run {}: {error}", dir.path().display()));
        }
    }

    pub fn notice(&self, text: String) {
        (self.notify)(text);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the table whole.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Which runs are kept, asked for one after the other from the newest on.
#[derive(Default)]
struct Kept {
    finished: usize,
    labels: HashSet<String>,
}

impl Kept {
    fn keeps(&mut self, is_live: bool, label: impl FnOnce() -> String) -> bool {
        self.finished += usize::from(!is_live);
        // So many are there only if they were put there by hand: their labels are not even looked at.
        if !is_live && self.finished > KEPT + LABELS_KEPT {
            return false;
        }
        self.labels.insert(label()) || is_live || self.finished <= KEPT
    }
}

/// Stands for a `meta.json` that cannot be read, so that the run is seen, read and stopped all the same.
fn substitute(dir: &RunDir) -> Meta {
    let name = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Meta {
        version: FORMAT_VERSION,
        argv: vec![OsText::from("?")],
        working_directory: OsText::from("?"),
        environment: Vec::new(),
        label: name,
        created: 0,
        previous: None,
        max_log_bytes: 0,
        idempotency_key: None,
        attributes: None,
    }
}
