//! What a person sees on a terminal: one progress bar that leaves nothing behind, short lines, no JSON.

use crate::common::{Desk, Ran};

/// A Python program that runs its arguments on a terminal of 80 columns and prints what is on the screen at the end, one
/// line per line, then the exit code. It understands what a progress bar sends: carriage returns, line feeds, moves up and
/// down, and erased lines. Anything else, such as a color, is an error.
const TERMINAL: &str = r#"
import os, pty, re, subprocess, sys, termios

outer, inner = pty.openpty()
termios.tcsetwinsize(inner, (24, 80))
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=inner, stderr=inner)
os.close(inner)
sent = b''
while True:
    try:
        part = os.read(outer, 1 << 16)
    except OSError:
        break
    if not part:
        break
    sent += part
screen, row, column, widest = [''], 0, 0, 0
for token in re.findall(r'\x1b\[[0-9;?]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+|\x1b', sent.decode()):
    if token == '\r':
        column = 0
    elif token == '\n':
        row += 1
        screen += [''] * (row + 1 - len(screen))
    elif token.startswith('\x1b'):
        count = int(re.sub(r'\D', '', token) or 1)
        if token[-1] == 'A':
            row = max(row - count, 0)
        elif token[-1] == 'B':
            row += count
        elif token == '\x1b[2K':
            screen[row] = ''
        elif token[-1] == 'K':
            screen[row] = screen[row][:column]
        elif token[-1] in 'hl':
            pass
        else:
            sys.exit(f'an unknown sequence {token!r}')
    else:
        line = screen[row].ljust(column)
        screen[row] = line[:column] + token + line[column + len(token):]
        column += len(token)
        widest = max(widest, column)
print('\n'.join(line.rstrip() for line in screen).rstrip('\n'))
print('bars', sent.decode().count(' ['), 'widest', widest, 'exit', process.wait())
"#;

/// Runs `lgd` with the words of `line` on a terminal; prints the final screen.
fn on_terminal(desk: &Desk, line: &str, variables: &str) -> Ran {
    desk.write("terminal.py", TERMINAL);
    let python = crate::common::third_party("venv/bin/python");
    let binary = env!("CARGO_BIN_EXE_lgd");
    desk.bash(&format!("{variables} {} terminal.py {binary} {line}", python.display()))
}

#[test]
fn a_terminal_shows_a_summary_and_no_trace_of_the_bar() {
    let desk = Desk::new();
    desk.images("images", 0, 4);
    desk.tiny_teacher("teacher", "linear.onnx");
    let extract = "extract --images images --teacher teacher --out cache";
    let screen = on_terminal(&desk, extract, "").ended(0, &[]).stdout;
    assert!(screen.lines().any(|line| line.starts_with("extract: 40 samples x ")), "{screen}");
    assert!(!screen.contains('{') && screen.contains("exit 0"), "{screen}");

    let train = "train --cache cache --images images --objective seed --student resnet18 --size 64 --batch 8 --epochs 3 --holdout 8";
    let screen = on_terminal(&desk, &format!("{train} --out run"), "").ended(0, &[]).stdout;
    let lines: Vec<&str> = screen.lines().collect();
    let starts = [
        "note: 8 of 40",
        "note: views are",
        "epoch 1/3  loss ",
        "epoch 2/3  loss ",
        "epoch 3/3  loss ",
        "train: 12 steps",
        "best: epoch ",
    ];
    let found: Vec<&&str> =
        lines.iter().filter(|line| starts.iter().any(|start| line.starts_with(start))).collect();
    assert_eq!(found.len(), starts.len(), "{screen}");
    assert!(
        lines[..lines.len() - 1]
            .iter()
            .all(|line| !line.contains(" [") && !line.contains("eta ") || line.starts_with("epoch")),
        "{screen}"
    );
    assert!(!screen.contains('{') && screen.contains("exit 0"), "{screen}");
    let epochs = lines.iter().filter(|line| line.starts_with("epoch"));
    assert!(epochs.clone().count() == 3 && epochs.clone().all(|line| line.chars().count() <= 80), "{screen}");
    let bars: usize = lines.last().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert!(bars > 1, "the bar was drawn: {screen}");

    let screen = on_terminal(&desk, &format!("{train} --out json --json"), "").ended(0, &[]).stdout;
    assert!(screen.contains("\"held_out\": 8"), "{screen}");
    let eval = "eval --run run --images images --train-images images --protocol knn,linear";
    let screen = on_terminal(&desk, eval, "").ended(0, &[]).stdout;
    assert!(screen.contains("\nkNN ") && screen.contains("exit 0"), "{screen}");
    let screen = on_terminal(&desk, "export --run run --out student.onnx", "").ended(0, &[]).stdout;
    assert!(
        screen.contains("export: student.onnx, ") && screen.contains("images [batch, 3, 64, 64]"),
        "{screen}"
    );
}

#[test]
fn quiet_commands_print_their_report_and_nothing_else() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let train = "train --cache cache --images images --objective seed --student mobilenet_v2 --size 32 --batch 8 --epochs 1";
    for line in [
        "extract --images images --teacher teacher --out cache --quiet",
        &format!("--quiet {train} --holdout 4 --out run"),
        "eval --quiet --run run --images images --train-images images --json",
        "export --run run --out student.onnx --quiet",
    ] {
        let ran = desk.lgd(line).ended(0, &[]);
        assert_eq!(ran.stderr, "", "{line}");
        assert!(ran.json().is_object(), "{line}");
    }
    let screen = on_terminal(&desk, &format!("{train} --out other --quiet"), "").ended(0, &[]).stdout;
    assert_eq!(screen.trim_start(), "bars 0 widest 0 exit 0\n");
    desk.lgd(&format!("--quiet {train} --out run"))
        .ended(2, &["error: run already holds a run", "hint: give --resume"]);
}

#[test]
fn no_color_is_sent_to_a_terminal_that_asks_for_none() {
    let desk = Desk::new();
    let colored = on_terminal(&desk, "train", "env -u NO_COLOR TERM=xterm");
    assert!(
        colored.code != 0 && colored.stderr.contains("an unknown sequence '\\x1b[1m'"),
        "{}",
        colored.stderr
    );
    let plain = on_terminal(&desk, "train", "NO_COLOR=1 TERM=xterm").ended(0, &[]).stdout;
    assert!(plain.contains("error: the following required arguments") && plain.contains("exit 2"), "{plain}");
}
