#![allow(clippy::unwrap_used)]

use super::*;

/// No host has processes of such IDs.
const BASE: u32 = 1 << 30;
const GUARDIAN: u32 = BASE;
const INIT: u32 = BASE + 1;
const MAIN: u32 = BASE + 2;

struct Nothing;

impl Redact for Nothing {
    fn redact(&mut self, _name: &str, texts: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        Some(texts)
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn id(pid: u32, second: u64) -> ProcessId {
    ProcessId { pid, start_time: second * 100 }
}

fn job() -> Job {
    Job { name: "a".to_owned(), id: "1".to_owned(), tier: Tier::Kernel, isolation: Isolation::Root }
}

/// A job with an init and a main process.
fn begun() -> (Lineage, Reader) {
    let (mut lineage, mut reader) = (Lineage::new(GUARDIAN, Source::Events), Reader::new());
    lineage.job = Some(job());
    lineage.fork(GUARDIAN, id(INIT, 1), at(1));
    lineage.fork(INIT, id(MAIN, 2), at(2));
    lineage.exec(MAIN, &mut reader);
    (lineage, reader)
}

fn seen(pid: u32, second: u64) -> Seen {
    Seen {
        id: id(pid, second),
        parent: MAIN,
        command: "seen".to_owned(),
        state: 'S',
        user: Some(0),
        started: at(second.cast_signed()),
        cpu: Some(Duration::from_secs(1)),
        memory: 1,
        memory_peak: Some(2),
        dead: false,
        exit: None,
    }
}

fn told(lineage: &mut Lineage) -> Vec<(u32, Option<Exit>, bool)> {
    lineage.settle(&mut Vec::new());
    let history = lineage.history(at(100), false, &mut Nothing).unwrap();
    history.processes.into_iter().map(|one| (one.id.pid - BASE, one.exit, one.ended.is_some())).collect()
}

fn code(code: i32) -> Option<Exit> {
    Some(Exit { code: Some(code), signal: None })
}

#[test]
fn what_the_guardian_starts_belongs_to_the_job_once_it_executes_a_program() {
    let (mut lineage, mut reader) = begun();
    // A copy that writes something down, and a program outside of a PID namespace.
    lineage.fork(GUARDIAN, id(BASE + 3, 3), at(3));
    lineage.exit(BASE + 3, true, 0, at(3));
    lineage.fork(GUARDIAN, id(BASE + 4, 3), at(3));
    lineage.exec(BASE + 4, &mut reader);
    lineage.exit(MAIN, true, 7 << 8, at(4));
    lineage.exit(INIT, true, 0, at(5));
    assert_eq!(told(&mut lineage), [(2, code(7), true), (4, None, false)]);
    assert!(!lineage.holds(INIT) && !lineage.holds(BASE + 3));
}

#[test]
fn a_process_ends_with_its_last_thread() {
    let (mut lineage, mut reader) = begun();
    lineage.thread(MAIN);
    lineage.thread(MAIN);
    lineage.exit(MAIN, true, 0, at(3));
    lineage.exit(MAIN, false, 0, at(4));
    assert_eq!(told(&mut lineage), [(2, None, false)]);
    lineage.exit(MAIN, false, 5 << 8, at(5));
    assert_eq!(told(&mut lineage), [(2, code(5), true)]);
    // Another thread than the first executes a program: the first one ends, and the process goes on.
    lineage.fork(INIT, id(BASE + 5, 6), at(6));
    lineage.thread(BASE + 5);
    lineage.exit(BASE + 5, true, 0, at(7));
    lineage.exec(BASE + 5, &mut reader);
    assert_eq!(told(&mut lineage)[1], (5, None, false));
    lineage.exit(BASE + 5, true, 9, at(8));
    assert_eq!(told(&mut lineage)[1], (5, Some(Exit { code: None, signal: Some(9) }), true));
}

#[test]
fn an_id_that_was_given_to_another_is_let_go() {
    let (mut lineage, mut reader) = begun();
    assert!(!lineage.has_lost(id(MAIN, 2), at(2)), "the same one");
    assert!(lineage.has_lost(id(MAIN, 50), at(50)));
    assert_eq!(told(&mut lineage), [(2, None, true)]);
    // What another starts is not the job's.
    lineage.fork(MAIN, id(BASE + 3, 51), at(51));
    lineage.exec(BASE + 3, &mut reader);
    assert!(!lineage.holds(BASE + 3));
}

#[test]
fn a_look_finds_what_nobody_told_of_and_takes_nothing_for_another() {
    let (mut lineage, mut reader) = begun();
    let other = BASE + 6;
    // The start of the main process was reckoned: what the look reads is a little off. A dead one was told of.
    let mut main = seen(MAIN, 2);
    main.id.start_time += 3;
    let dead = Seen { dead: true, ..seen(BASE + 7, 3) };
    lineage.looked(vec![main.clone(), seen(other, 3), dead], at(4), &mut reader);
    assert_eq!(told(&mut lineage), [(2, None, false), (6, None, false)]);
    // The word of it comes late, and changes nothing.
    lineage.fork(MAIN, id(other, 3), at(3));
    assert_eq!(told(&mut lineage).len(), 2);
    // Its ID is another's by now.
    lineage.looked(vec![main.clone(), seen(other, 9)], at(9), &mut reader);
    assert_eq!(told(&mut lineage), [(6, None, true), (2, None, false), (6, None, false)]);
    // Not there once: its end may still be told. Twice: it was missed.
    lineage.looked(vec![main.clone()], at(10), &mut reader);
    assert!(!told(&mut lineage)[2].2);
    lineage.looked(vec![main], at(11), &mut reader);
    assert_eq!(told(&mut lineage), [(6, None, true), (6, None, true), (2, None, false)]);
}

#[test]
fn where_nobody_tells_a_look_knows_the_ends_of_those_who_wait_to_be_reaped() {
    let mut reader = Reader::new();
    let mut lineage = Lineage::new(GUARDIAN, Source::Sampled);
    lineage.job = Some(job());
    let dead = Seen { dead: true, exit: code(3), ..seen(BASE + 8, 3) };
    lineage.looked(vec![seen(MAIN, 2), dead], at(4), &mut reader);
    lineage.looked(vec![seen(MAIN, 2)], at(5), &mut reader);
    assert_eq!(told(&mut lineage), [(8, code(3), true), (2, None, false)]);
    lineage.close(at(6), Some((id(MAIN, 2), code(4))));
    assert_eq!(told(&mut lineage), [(8, code(3), true), (2, code(4), true)]);
    // A look was faster than the word of the job's end.
    let mut faster = Lineage::new(GUARDIAN, Source::Sampled);
    faster.job = Some(job());
    faster.looked(vec![seen(MAIN, 2)], at(4), &mut reader);
    faster.looked(Vec::new(), at(5), &mut reader);
    faster.close(at(6), Some((id(MAIN, 2), code(4))));
    assert_eq!(told(&mut faster), [(2, code(4), true)]);
    assert!(!lineage.history(at(7), true, &mut Nothing).unwrap().is_complete());
}

#[test]
fn a_history_goes_on_where_it_was_written() {
    let (mut lineage, mut reader) = begun();
    lineage.fork(MAIN, id(BASE + 3, 3), at(3));
    lineage.fork(MAIN, id(BASE + 4, 3), at(3));
    lineage.exit(BASE + 3, true, 0, at(4));
    lineage.settle(&mut Vec::new());
    let history = lineage.history(at(5), false, &mut Nothing).unwrap();
    let mut next = Lineage::new(GUARDIAN, Source::Events);
    next.job = Some(job());
    next.resume(history);
    next.gap(at(5), at(9), "nobody");
    // One of them was gone by then, and one that nobody has seen is there.
    next.looked(vec![seen(MAIN, 2), seen(BASE + 9, 6)], at(9), &mut reader);
    assert_eq!(told(&mut next), [(3, code(0), true), (4, None, true), (2, None, false), (9, None, false)]);
    let history = next.history(at(10), false, &mut Nothing).unwrap();
    assert_eq!((history.is_complete(), history.gaps.len()), (false, 1));
}

#[test]
fn those_beyond_the_bound_are_followed_and_counted() {
    let (mut lineage, _) = begun();
    let more = u32::try_from(LIVE_LIMIT).unwrap() + 50;
    (0..more).for_each(|n| lineage.fork(MAIN, id(BASE + 100 + n, 3), at(3)));
    let history = lineage.history(at(4), false, &mut Nothing).unwrap();
    assert_eq!((history.processes.len(), history.omitted), (LIVE_LIMIT, 51));
    // A child of one that is only counted is the job's too.
    lineage.fork(BASE + 100 + more - 1, id(BASE + 50, 5), at(5));
    assert!(lineage.holds(BASE + 50));
    (0..more).for_each(|n| lineage.exit(BASE + 100 + n, true, 0, at(6)));
    lineage.settle(&mut Vec::new());
    let history = lineage.history(at(7), false, &mut Nothing).unwrap();
    assert_eq!(history.processes.len() as u64 + history.omitted, u64::from(more) + 2);
}
