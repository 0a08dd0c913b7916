//! A part of the bench is this program again, in a process of its own, so that its memory and time can be told apart. It
//! is asked by lines on its standard input and answers each with one line.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::sync::mpsc;

/// A part under way. Dropped, it is killed.
pub struct Part {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

// === impl Part ===

impl Part {
    /// Starts a part and waits for its first line.
    pub fn start(arguments: &[&str]) -> (Self, String) {
        let own = std::env::current_exe().expect("a program knows where it lies");
        let mut child = Command::new(own)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let (orders, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut part = Self { child, orders, answers: BufReader::new(answers) };
        let first = part.answer();
        (part, first)
    }

    /// Gives an order and waits for its answer.
    pub fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("the part listens");
        self.answer()
    }

    /// An answer that is a number.
    pub fn number(&mut self, order: &str) -> u64 {
        let answer = self.ask(order);
        answer.parse().unwrap_or_else(|_| panic!("{order} was answered by {answer:?}"))
    }

    /// Asks until the answer is this number.
    pub fn until(&mut self, order: &str, number: u64) {
        for _ in 0..3000 {
            if self.number(order) == number {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{order} did not become {number} in five minutes; it is {}", self.number(order));
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> u64 {
        let text = self.proc("smaps_rollup");
        let line = text.lines().find_map(|l| l.strip_prefix("Rss:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Processor time so far, of all threads.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the part answers");
        assert!(!line.is_empty(), "a part of the bench ended before it answered");
        line.trim().to_owned()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process so far, of all its threads.
pub fn cpu_of(process: u32) -> Duration {
    // proc(5): fields 14 and 15, in ticks of a hundredth of a second; the second field ends at the last bracket.
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<_> = text.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|t| t.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Orders to this part, until there will be none.
pub fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|order| sender.blocking_send(order))
    });
    orders
}

/// Answers an order.
pub fn answer(text: impl std::fmt::Display) {
    println!("{text}");
}
