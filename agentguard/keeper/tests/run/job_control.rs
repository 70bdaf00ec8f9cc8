//! A person at a terminal: what Ctrl-C, Ctrl-Z, `fg`, `bg`, pipes and a closed window do.

use rustix::process::Signal;

use crate::world::{Gives, Keeper, Person, eventually};

/// A world, or nothing if it cannot be.
fn world(test: &str) -> Option<(Keeper, Person, String)> {
    let keeper = Keeper::new(test, Gives::default())?;
    let run = keeper.run();
    Some((keeper, Person::at_bash(), run))
}

#[test]
fn the_command_has_a_terminal_of_its_own_with_the_users_size_and_modes() {
    let Some((_keeper, mut person, run)) = world("terminal") else {
        return;
    };
    person.types("stty erase '^H'; tty\n");
    person.sees("/dev/pts/");
    person.sees("ready> ");
    person.types(&format!(
        "{run} sh -c 'tty; stty size; stty -a | grep -o \"[^t]erase = ^.\"; test -t 0 -a -t 1 -a -t 2 && echo all'\n"
    ));
    person.sees("/dev/pts/");
    person.sees("24 80");
    person.sees("erase = ^H");
    person.sees("all");
    person.sees("ready> ");
    assert!(person.terminal_is_cooked());
    // Owned by the command's user, and its controlling terminal.
    person.types(&format!(
        "{run} --user daemon sh -c 'cat < $(tty) & echo hi > /dev/tty; stat -c %U $(tty); kill $!'\n"
    ));
    person.sees("hi\r\n");
    person.sees("daemon\r\n");
    person.sees("ready> ");
}

#[test]
fn ctrl_c_ends_the_command_and_the_loop_around_it() {
    let Some((keeper, mut person, run)) = world("ctrl-c") else {
        return;
    };
    person.types(&format!("{run} sh -c 'echo rea''lly; sleep 1000'\n"));
    person.sees("really\r\n");
    keeper.wait_running("sleep");
    person.types("\x03");
    person.sees("ready> ");
    person.types("echo code $?\n");
    person.sees("code 130\r\n");
    assert!(person.terminal_is_cooked());
    // One that handles it ends as it likes. (It reads in short turns: a signal that comes just before
    // a long `read` is not handled before its end.)
    person.types(&format!(
        "{run} bash -c 'trap \"echo cau\"\"ght; exit 4\" INT; echo rea''lly; until read -t 0.05 x; do :; done'\n"
    ));
    person.sees("really\r\n");
    person.types("\x03");
    person.sees("caught\r\n");
    person.sees("ready> ");
    person.types("echo code $?\n");
    person.sees("code 4\r\n");
    // A script around it ends too, as if the terminal had told it.
    person.types(&format!(
        "bash -c '{run} sh -c \"echo rea\"\"lly; sleep 1000\"; echo not''reached'\n"
    ));
    person.sees("really\r\n");
    keeper.wait_running("sleep");
    person.types("\x03");
    person.sees("ready> ");
    person.types("echo code $?\n");
    person.sees("code 130\r\n");
    assert!(!person.everything().contains("notreached"));
}

#[test]
fn ctrl_z_stops_the_job_and_fg_and_bg_continue_it() {
    let Some((keeper, mut person, run)) = world("ctrl-z") else {
        return;
    };
    person.types(&format!(
        "{run} sh -c 'echo rea''lly; read x; echo got $x'\n"
    ));
    person.sees("really\r\n");
    person.types("\x1a");
    person.sees("Stopped");
    person.sees("ready> ");
    assert!(person.terminal_is_cooked());
    assert!(keeper.is_stopped());
    // In the background it wants the terminal, and is stopped for that.
    person.types("bg\n");
    person.sees("&");
    person.sees("Stopped");
    assert!(keeper.is_stopped());
    person.types("fg\n");
    person.sees("read x");
    eventually("it goes on", || !keeper.is_stopped());
    person.types("hello\n");
    person.sees("got hello\r\n");
    person.sees("ready> ");
    person.types("echo code $?\n");
    person.sees("code 0\r\n");
}

#[test]
fn a_background_job_runs_and_waits_for_the_foreground_to_read() {
    let Some((keeper, mut person, run)) = world("background") else {
        return;
    };
    person.types(&format!(
        "{run} sh -c 'echo work''ed; read x; echo got $x' &\n"
    ));
    person.sees("worked");
    person.sees("Stopped");
    assert!(keeper.is_stopped());
    person.types("fg\n");
    person.sees("read x");
    eventually("it goes on", || !keeper.is_stopped());
    person.types("hello\n");
    person.sees("got hello\r\n");
    person.sees("ready> ");
    assert!(person.terminal_is_cooked());
}

#[test]
fn a_job_begun_under_the_shells_line_editor_gets_the_users_modes_in_the_foreground() {
    let Some((keeper, mut person, run)) = world("line editor") else {
        return;
    };
    let shell = person.foreground();
    let go = keeper.directory().join("go");
    // The shell reads its next line, with modes of its own, when the client begins.
    let begin = "until stty -a | grep -q -- -icanon; do :; done; exec";
    let told = "stty -a | grep -q -- \"-icanon\\|-echo \" || echo line''wise";
    let wait = format!("until test -e {}; do sleep 0.01; done", go.display());
    // One is stopped when it reads; the other is in the foreground by then, and nothing continues it.
    for (waits, wait) in [(false, "true"), (true, wait.as_str())] {
        person.types("stty erase '^?'\n");
        person.sees("ready> ");
        person.types(&format!(
            "({begin} {run} sh -c '{told}; {wait}; exec cat') &\n"
        ));
        // Not even in the background does it see the line editor's.
        person.sees("linewise\r\n");
        if !waits {
            person.sees("Stopped");
        }
        // What is in force when it comes to the foreground counts, not what was when it began.
        person.types("stty erase '^H'; echo era''se\n");
        person.sees("erase\r\n");
        person.types("fg\n");
        eventually("foreground", || person.foreground() != shell);
        if waits {
            std::fs::write(&go, "").unwrap();
        }
        eventually("raw", || !person.terminal_is_cooked());
        person.types("hellp\x08o\n");
        person.sees("hellp\x08 \x08o\r\nhello\r\n");
        person.types("\x04");
        person.sees("ready> ");
        person.types("echo code $?\n");
        person.sees("code 0\r\n");
        person.sees("ready> ");
        assert!(person.terminal_is_cooked());
    }
}

#[test]
fn in_a_pipeline_the_keyboard_belongs_to_whoever_asks() {
    let Some((keeper, mut person, run)) = world("pipelines") else {
        return;
    };
    person.types(&format!("{run} sh -c 'yes; true' | head -1; echo end $?\n"));
    person.sees("y\r\n");
    person.sees("end 0\r\n");
    person.types(&format!("yes | {run} head -1; echo end $?\n"));
    person.sees("y\r\n");
    person.sees("end 0\r\n");
    // The other program of the pipeline reads.
    person.types(&format!(
        "{run} echo que''stion | sh -c 'cat; read x </dev/tty; echo its $x'\n"
    ));
    person.sees("question\r\n");
    person.types("one\n");
    person.sees("its one\r\n");
    // The governed one reads.
    person.types(&format!(
        "echo que''stion | {run} sh -c 'cat; read x </dev/tty; echo its $x'\n"
    ));
    person.sees("question\r\n");
    person.types("two\n");
    person.sees("its two\r\n");
    person.sees("ready> ");
    // Ctrl-C and Ctrl-Z reach it there too.
    person.types(&format!(
        "{run} sh -c 'echo rea''lly >&2; sleep 1000' | cat\n"
    ));
    person.sees("really");
    keeper.wait_running("sleep");
    person.types("\x1a");
    person.sees("Stopped");
    person.sees("ready> ");
    person.types("fg\n");
    person.sees("sleep 1000");
    eventually("it goes on", || !keeper.is_stopped());
    person.types("\x03");
    person.sees("ready> ");
    assert!(person.terminal_is_cooked());
}

#[test]
fn the_window_size_follows() {
    let Some((_keeper, mut person, run)) = world("window") else {
        return;
    };
    person.types(&format!(
        "{run} bash -c 'trap \"stty size\" WINCH; echo rea''lly; until read -t 0.05 x; do :; done'\n"
    ));
    person.sees("really\r\n");
    person.resizes(33, 99);
    person.sees("33 99\r\n");
    person.types("\n");
    person.sees("ready> ");
}

#[test]
fn a_shell_inside_has_job_control_of_its_own() {
    let Some((keeper, mut person, run)) = world("nested") else {
        return;
    };
    person.types(&format!("{run} bash --norc --noprofile -i\n"));
    person.types("PS1='inn''er> '\n");
    person.sees("inner> ");
    person.types("sh -c 'echo u''p; exec cat'\n");
    person.sees("up\r\n");
    person.types("hello\n");
    person.sees("hello\r\nhello\r\n");
    person.types("\x1a");
    person.sees("Stopped");
    person.sees("inner> ");
    person.types("fg\n");
    person.sees("exec cat'\r\n");
    eventually("it goes on", || !keeper.is_stopped());
    person.types("again\n");
    person.sees("again\r\nagain\r\n");
    person.types("\x03");
    person.sees("inner> ");
    person.types("echo code $?\n");
    person.sees("code 130\r\n");
    // The inner shell itself can be suspended and resumed.
    person.types("suspend -f\n");
    person.sees("Stopped");
    person.sees("ready> ");
    person.types("fg\n");
    person.sees("inner> ");
    person.types("exit 5\n");
    person.sees("ready> ");
    person.types("echo code $?\n");
    person.sees("code 5\r\n");
    assert!(person.terminal_is_cooked());
}

#[test]
fn a_killed_client_and_a_closed_window_end_the_run() {
    let Some((keeper, mut person, run)) = world("killed") else {
        return;
    };
    person.types(&format!("{run} sh -c 'echo rea''lly; sleep 1000'\n"));
    person.sees("really\r\n");
    keeper.wait_running("sleep");
    let client = rustix::process::Pid::from_raw(person.foreground()).unwrap();
    rustix::process::kill_process(client, Signal::KILL).unwrap();
    person.sees("Killed");
    keeper.wait_finished(0);
    eventually("the run ends", || keeper.members(0).is_empty());

    person.types("stty sane\n");
    person.types(&format!("{run} sh -c 'echo rea''lly; sleep 1000'\n"));
    person.sees("really\r\n");
    keeper.wait_running("sleep");
    let mut program = person.leaves();
    program.wait().unwrap();
    keeper.wait_finished(1);
    eventually("the run ends", || keeper.members(1).is_empty());
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_the_client() {
    let Some((keeper, mut person, run)) = world("restore") else {
        return;
    };
    for signal in [Signal::TERM, Signal::ALARM] {
        person.types(&format!("{run} sh -c 'echo rea''lly; sleep 1000'\n"));
        person.sees("really\r\n");
        keeper.wait_running("sleep");
        eventually("raw", || !person.terminal_is_cooked());
        let client = rustix::process::Pid::from_raw(person.foreground()).unwrap();
        rustix::process::kill_process(client, signal).unwrap();
        person.sees("ready> ");
        assert!(person.terminal_is_cooked());
    }
    keeper.wait_finished(1);
}

#[test]
fn the_last_words_are_shown_however_many() {
    let Some((_keeper, mut person, run)) = world("last words") else {
        return;
    };
    person.types(&format!("{run} sh -c 'seq 20000; echo fin''ished'\n"));
    person.sees("20000\r\nfinished\r\n");
    person.sees("ready> ");
}
