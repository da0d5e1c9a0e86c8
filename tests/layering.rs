//! Who may import whom, who may touch the outside world, and who may be unsafe.
//! Reads the sources; `src/ARCHITECTURE.md` says why the floors are what they
//! are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module below `src`, lowest floor first. A module imports from lower
/// floors only; files of one folder may use each other.
const FLOORS: [&[&str]; 8] = [
    &[
        "attached",
        "cast",
        "exit",
        "id",
        "limits",
        "queue_state",
        "resource",
        "sandbox",
        "slot_word",
        "time",
    ],
    &["proto", "seat", "sys"],
    &["error", "observe", "registry", "sched", "start", "transport"],
    &["channel", "fd", "shared", "supervisor", "worker"],
    &["init", "pipe"],
    &["process"],
    &["pool"],
    &["guide", "integrate", "lib"],
];

/// Values in, values out. These import nothing but each other, either.
const PURE: [&str; 12] = [
    "attached",
    "cast",
    "exit",
    "id",
    "limits",
    "proto",
    "queue_state",
    "resource",
    "sandbox",
    "sched",
    "slot_word",
    "time",
];

/// What a pure module has no business with.
const OUTSIDE_WORLD: [&str; 14] = [
    "tokio::",
    "tracing::",
    "nix::",
    "libc::",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "asm!",
];

/// `Exit`'s sentence takes the names of signals from nix.
const EXCEPTION: (&str, &str) = ("exit.rs", "nix::");

/// The homes of `unsafe`: system calls, and the table that the linker fills.
const UNSAFE: [&str; 2] = ["sys/", "registry/table.rs"];

#[test]
fn imports_point_down_and_the_middle_is_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let source = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&src).unwrap().to_str().unwrap();
        found.insert(module_of(path).to_string());
        wrong.extend(violations(path, &source));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: BTreeSet<_> = FLOORS.concat().into_iter().map(String::from).collect();
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(stale.is_empty(), "in the table, but not below src: {stale:?}");
}

#[test]
fn violations_are_found() {
    let cases = [
        ("sched/mod.rs", "use crate::supervisor::Call;", "imports `supervisor`"),
        ("sched/mod.rs", "fn f() { let x = crate::sys::clock::now(); }", "imports `sys`"),
        ("sched/queue.rs", "use super::super::pool::Pool;", "climbs out"),
        ("fd.rs", "use crate::{id::TaskId, pool::Pool};", "one `use crate::module"),
        ("fd.rs", "use super::pool::Pool;", "climbs out"),
        ("worker/run.rs", "use crate::supervisor::Call;", "imports `supervisor`"),
        ("proto/codec.rs", "fn f() -> tokio::time::Instant { todo!() }", "`tokio::`"),
        ("slot_word.rs", "fn f() { let t = Instant::now(); }", "`Instant::now`"),
        ("sched/slot.rs", "use std::time::{Duration, SystemTime};", "`SystemTime`"),
        ("id.rs", "use nix::unistd::Pid;", "`nix::`"),
        ("pool/map.rs", "fn f() { unsafe { g() } }", "unsafe"),
        ("registry/mod.rs", "#![allow(unsafe_code)]", "unsafe"),
        ("novel.rs", "", "not in the table"),
        ("novel/mod.rs", "", "not in the table"),
    ];
    for (path, source, expected) in cases {
        let found = violations(path, source);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{path}: {source}: {found:?}, not {expected}"
        );
    }
    let fine = [
        ("sched/mod.rs", "use crate::time::Time; use self::queue::Tasks; use std::time::Duration;"),
        ("sched/mod.rs", "/// [`Pool`](crate::Pool) /* unsafe */\n// tokio::spawn\n"),
        (
            "proto/codec.rs",
            r##"const A: &str = "crate::pool \" unsafe"; const B: &str = r#"tokio::"#;"##,
        ),
        (
            "proto/codec.rs",
            "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } use crate::id::X;",
        ),
        ("pool/map.rs", "use crate::supervisor::Call; use tokio::time::Sleep;"),
        ("exit.rs", "use nix::sys::signal::Signal;"),
        ("init.rs", "mod tests { use super::*; }"),
        ("proto/encode/tests.rs", "use super::super::codec; use std::thread::Builder;"),
        ("sched/tests/deaths.rs", "use super::super::*;"),
        ("init.rs", "macro_rules! m { () => { $crate::pool::Pool } }"),
        ("sys/page.rs", "#![allow(unsafe_code)] fn f() { unsafe { g() } }"),
        ("lib.rs", "#![deny(unsafe_code)]"),
    ];
    for (path, source) in fine {
        assert_eq!(violations(path, source), [""; 0], "{path}: {source}");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module below the crate's root that a file belongs to.
fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// What is wrong in a file, whose path is given from `src` on.
fn violations(path: &str, source: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(own_floor) = floor(module) else {
        return vec![format!("src/{path}: not in the table of tests/layering.rs")];
    };
    let pure = PURE.contains(&module);
    let mut wrong = Vec::new();
    let mut in_tests = path.ends_with("/tests.rs") || path.contains("/tests/");
    for (number, line) in code(source).lines().enumerate() {
        // Tests have files of their own or come last. They may start threads,
        // and are one module further down.
        in_tests |= line.starts_with("mod tests {");
        let mut say = |what: String| wrong.push(format!("src/{path}:{}: {what}", number + 1));
        for imported in imports(line) {
            if imported.is_empty() {
                say("write one `use crate::module::…` for each module".into());
            } else if imported != module {
                let below = floor(imported).is_some_and(|floor| floor < own_floor);
                if !below || (pure && !PURE.contains(&imported)) {
                    say(format!("imports `{imported}`, which is not below `{module}`"));
                }
            }
        }
        // From a file at the root, `super` is the root, but for inline modules.
        let climbs = if path.contains('/') { "super::super::" } else { "super::" };
        if line.contains(climbs) && !in_tests {
            say("climbs out of its module; write `crate::`".into());
        }
        if pure && !in_tests {
            for outside in OUTSIDE_WORLD.iter().filter(|outside| mentions(line, outside)) {
                if (path, *outside) != EXCEPTION {
                    say(format!("a pure module and `{outside}`"));
                    break;
                }
            }
        }
        let home = UNSAFE.iter().any(|home| path.starts_with(home));
        if !home && (is_word(line, "unsafe") || mentions(line, "allow(unsafe_code")) {
            say("unsafe outside its homes".into());
        }
    }
    wrong
}

/// The modules after each `crate::` of a line; empty for a `{…}` group or `*`.
fn imports(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if !line[..at].ends_with(|c: char| c == '$' || is_word_char(c)) {
            let rest = &line[at + "crate::".len()..];
            found.push(rest.split(|c| !is_word_char(c)).next().unwrap());
        }
    }
    found
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn mentions(line: &str, what: &str) -> bool {
    line.match_indices(what).any(|(at, _)| !line[..at].ends_with(is_word_char))
}

fn is_word(line: &str, word: &str) -> bool {
    line.split(|c| !is_word_char(c)).any(|found| found == word)
}

/// The source without comments and without what is in quotes; lines stay.
fn code(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            1 + quoted(&rest[1..], '"')
        } else if first == 'r' && !code.ends_with(is_word_char) && raw(rest).is_some() {
            raw(rest).unwrap()
        } else if rest.starts_with("'\\") {
            1 + quoted(&rest[1..], '\'')
        } else if first == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(end, _)| end)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

/// The length of a quoted text and its closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// The length of the raw string at the start of `text`, if there is one.
fn raw(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |end| end + close.len());
    Some(text.len() - body.len() + end)
}
