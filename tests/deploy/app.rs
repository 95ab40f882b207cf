//! The app of the images: what a site runs in a container, with every fault that a release can have.
//!
//! No part of the workspace: `release.rs` compiles it by itself, with nothing but the standard library and linked
//! statically, so that an image is this one file. What it is and does is in the environment of the image:
//!
//! - `RELEASE`: its name; the body of every page.
//! - `CRASH=CODE`: says why, and ends with that exit code before it listens.
//! - `LISTEN_WHEN=FILE`: starts slowly: it listens once there is such a file.
//! - `PING=STATUS`: what a probe is answered.
//! - `PAGE=STATUS`: what a page is answered.
//! - `DIES_AFTER=N`, `FAILS_AFTER=N`: ends with code 4, or answers 500, from the so manieth forwarded request on. Only what
//!   comes through the proxy is counted: neither probes nor a warm-up are.
//!
//! Every POST that has an `x-test-id` is a line `RELEASE ID` in `/posts/log`, a volume that outlives the container.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

struct App {
    release: String,
    ping: u16,
    page: u16,
    dies_after: Option<usize>,
    fails_after: Option<usize>,
    forwarded: AtomicUsize,
    posts: Option<File>,
}

#[derive(Default)]
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn main() {
    let release = env::var("RELEASE").unwrap_or_default();
    if let Some(code) = number("CRASH") {
        eprintln!("{release}: connecting to the database");
        eprintln!("{release}: fatal: the database has no such table as releases");
        process::exit(i32::try_from(code).unwrap_or(1));
    }
    if let Ok(file) = env::var("LISTEN_WHEN") {
        println!("{release}: filling caches");
        while !Path::new(&file).exists() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open("/posts/log");
    let app = Arc::new(App {
        ping: number("PING").map_or(200, |status| status as u16),
        page: number("PAGE").map_or(200, |status| status as u16),
        dies_after: number("DIES_AFTER"),
        fails_after: number("FAILS_AFTER"),
        forwarded: AtomicUsize::new(0),
        posts: log.ok(),
        release,
    });
    let listener = TcpListener::bind("0.0.0.0:3000").expect("port 3000 is free in a container");
    println!("{}: ready", app.release);
    for stream in listener.incoming().flatten() {
        let app = Arc::clone(&app);
        thread::spawn(move || app.serve(stream));
    }
}

fn number(name: &str) -> Option<usize> {
    env::var(name).ok()?.parse().ok()
}

impl App {
    /// Answers request by request until the other side has had enough.
    fn serve(&self, stream: TcpStream) {
        let Ok(mut writer) = stream.try_clone() else {
            return;
        };
        // Small answers at once. One that cannot be set is slow, and no more.
        stream.set_nodelay(true).ok();
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = read(&mut reader) {
            let closes = request.header("connection") == Some("close");
            if self.answer(&request, &mut writer).is_err() || closes {
                return;
            }
        }
    }

    fn answer(&self, request: &Request, writer: &mut TcpStream) -> io::Result<()> {
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/api/ping" {
            return reply(writer, self.ping, b"pong");
        }
        let forwarded = match request.header("x-forwarded-for") {
            Some(_) => self.forwarded.fetch_add(1, Ordering::SeqCst) + 1,
            None => 0,
        };
        if self.dies_after.is_some_and(|most| forwarded >= most) {
            eprintln!("{}: fatal: out of cheese", self.release);
            process::exit(4);
        }
        if let (Some(id), Some(mut posts)) = (request.header("x-test-id"), self.posts.as_ref()) {
            // One write, so that lines of two containers do not mix.
            posts.write_all(format!("{} {id}\n", self.release).as_bytes())?;
        }
        if self.fails_after.is_some_and(|most| forwarded >= most) {
            return reply(writer, 500, b"it broke");
        }
        if path == "/echo" {
            return reply(writer, 200, &request.body);
        }
        if let Some(ms) = path.strip_prefix("/delay/") {
            thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
        }
        reply(writer, self.page, self.release.as_bytes())
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }
}

/// The next request; `None` when the connection is over.
fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        ..Request::default()
    };
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let header = (name.to_ascii_lowercase(), value.trim().to_owned());
        request.headers.push(header);
    }
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = line(reader)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            append(reader, size, &mut request.body)?;
            line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        append(reader, length, &mut request.body)?;
    }
    Ok(Some(request))
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn append(reader: &mut BufReader<TcpStream>, size: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let before = body.len();
    body.resize(before + size, 0);
    reader.read_exact(&mut body[before..])
}

fn reply(writer: &mut TcpStream, status: u16, body: &[u8]) -> io::Result<()> {
    let mut answer = format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    writer.write_all(&answer)
}
