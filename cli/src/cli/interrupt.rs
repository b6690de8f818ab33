//! Ctrl-C, and the signals that ask a process to end: SIGINT, SIGTERM and SIGHUP.
//!
//! A command ends at once, wherever it is, because every file that it wrote is complete. The only exception are the
//! steps of a unit in a run with a folder: [`requested`] makes them stop after the current step, and the state within the unit
//! is saved. A second request ends the process in any case.

use super::output::{failure, note};
use qdrop_core::run_directory::MANIFEST_FILE;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{mpsc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Exit status after a request to stop: 128 + SIGINT.
pub const STOPPED: u8 = 130;
/// Signals that follow each other faster are one request: `timeout` and terminals send the same signal twice.
const ONE_REQUEST: Duration = Duration::from_millis(100);
/// How long a last message, or the end of a child process, is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Whether the process is ending: only one thread reports why.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Whether steps of a unit were computed since the last checkpoint.
static WITHIN_UNIT: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(false);
/// The folder of the run, if it has one.
static RUN: Mutex<Option<PathBuf>> = Mutex::new(None);
/// The running child process, which leads a process group.
static CHILD: Mutex<Option<u32>> = Mutex::new(None);

/// Locks a mutex; what these mutexes hold is right even if another thread panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether a signal requested to stop.
pub fn requested() -> bool {
    REQUESTED.load(SeqCst)
}

/// Handles signals from now on. `json` tells whether a failure is also printed as JSON.
pub fn watch(json: bool) -> std::io::Result<()> {
    JSON.store(json, SeqCst);
    let mut first: Option<Instant> = None;
    on_signal(move || match first {
        None => {
            first = Some(Instant::now());
            request();
        }
        Some(first) if first.elapsed() < ONE_REQUEST => {}
        Some(_) => exit(),
    })
}

/// Steps of units of the run in `dir` are from now on interrupted so that their state is saved.
pub fn keep_state_in(dir: &Path) {
    *lock(&RUN) = Some(dir.into());
}

/// A step of a unit was computed.
pub fn step() {
    WITHIN_UNIT.store(true, SeqCst);
}

/// All that was computed is in a checkpoint.
pub fn checkpoint() {
    WITHIN_UNIT.store(false, SeqCst);
    if requested() {
        end();
    }
}

fn request() {
    let after_this_step = || WITHIN_UNIT.load(SeqCst) && run().is_some_and(|dir| has_begun(&dir));
    let say =
        || in_time(|| note(&format!("{}stopping after this step; press Ctrl-C again to stop at once\n", new_line())));
    // Before the request, because the run may end as soon as it sees that.
    let said = after_this_step();
    if said {
        say();
    }
    REQUESTED.store(true, SeqCst);
    // After the line above, so that either this thread or `checkpoint` sees that the process has to end.
    if !after_this_step() {
        end();
    }
    if !said {
        say();
    }
}

/// A terminal shows a progress bar or `^C` on the current line.
fn new_line() -> &'static str {
    if std::io::stderr().is_terminal() {
        "\n"
    } else {
        ""
    }
}

/// Ends the process at once.
fn end() -> ! {
    if ENDING.swap(true, SeqCst) {
        std::thread::sleep(PATIENCE);
        exit();
    }
    end_child();
    in_time(|| {
        let stopped = qdrop_core::Error::Cancelled.to_string();
        let message = match hint() {
            Some(hint) => format!("{hint}: {stopped}"),
            None => stopped,
        };
        note(new_line());
        failure(&message, JSON.load(SeqCst));
    });
    exit();
}

/// The folder of the run, if it has one.
fn run() -> Option<PathBuf> {
    lock(&RUN).clone()
}

/// Whether there is something to resume in the folder.
fn has_begun(dir: &Path) -> bool {
    dir.join(MANIFEST_FILE).exists()
}

/// How to continue the run, if it has a folder.
pub fn hint() -> Option<String> {
    let dir = run()?;
    Some(match has_begun(&dir) {
        true => format!("continue with `qdrop resume {}`", dir.display()),
        false => format!("nothing is kept in {}, because the run had not begun; repeat the command", dir.display()),
    })
}

/// Says that this thread ends the process and reports why. It waits forever if another thread does so already.
pub fn begin_to_end() {
    while ENDING.swap(true, SeqCst) {
        std::thread::park();
    }
}

/// Prints, but does not wait longer than a moment: a reader that has stopped to read must not keep the process alive.
fn in_time(print: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let printing = std::thread::Builder::new().spawn(move || {
        print();
        let _ = done.send(());
    });
    if printing.is_ok() {
        let _ = wait.recv_timeout(PATIENCE);
    }
}

/// Runs a command to its end and returns what it wrote to its pipes. It gets no input. If this process is asked to stop,
/// the command and all processes that it started are ended.
pub fn output_of(command: &mut Command) -> std::io::Result<Output> {
    // A group of its own, so that no other process is ended with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut running = lock(&CHILD);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    *running = Some(child.id());
    drop(running);
    let output = child.wait_with_output();
    *lock(&CHILD) = None;
    if requested() {
        // The command failed because it was ended.
        end();
    }
    output
}

/// Ends the child process. The lock stays taken, so that no other one is started.
#[cfg(unix)]
fn end_child() {
    use rustix::process::{kill_process_group, test_kill_process_group, Pid, Signal};
    let running = std::mem::ManuallyDrop::new(lock(&CHILD));
    let Some(group) = running.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { return };
    // A process that takes no notice of the first signal ends by the second one.
    for signal in [Signal::TERM, Signal::KILL] {
        let start = Instant::now();
        // An error means that all processes of the group are gone.
        let mut found = kill_process_group(group, signal);
        while found.is_ok() && start.elapsed() < PATIENCE / 2 {
            std::thread::sleep(Duration::from_millis(5));
            found = test_kill_process_group(group);
        }
        if found.is_err() {
            return;
        }
    }
}

#[cfg(not(unix))]
fn end_child() {}

/// Calls `handle` on a thread of its own for every signal. Signals that this process was told to ignore stay ignored:
/// a run under `nohup` does not end with its terminal.
#[cfg(unix)]
fn on_signal(mut handle: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || signals.forever().for_each(|_| handle()))?;
    Ok(())
}

/// Whether the process that started this one told it to ignore the signal.
#[cfg(unix)]
fn is_ignored(signal: std::ffi::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action, `sigaction` changes nothing; it fills `action` if it returns 0.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Ends the process without running anything else, because other threads still compute.
#[cfg(unix)]
fn exit() -> ! {
    signal_hook::low_level::exit(STOPPED.into())
}

#[cfg(not(unix))]
fn on_signal(handle: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    ctrlc::set_handler(handle).map_err(std::io::Error::other)
}

#[cfg(not(unix))]
fn exit() -> ! {
    std::process::exit(STOPPED.into())
}
