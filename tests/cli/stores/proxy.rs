//! A proxy in front of a server that treats answers badly.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The server answers 500.
    Status500,
    /// The connection ends before the answer.
    Drop,
    /// The connection ends in the middle of the body.
    Cut,
    /// The body is half as long, and the header says so too.
    Half,
    /// One bit of the body is flipped.
    Flip,
    /// The answer takes its time, in many small pieces.
    Slow,
    /// The answer comes after this time.
    Late(Duration),
    /// The answer is a redirect.
    Redirect(String),
}

/// The proxy. Its threads end with the process.
pub struct Proxy {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy in front of a port of this machine. `plan` chooses the fault by the number of the request, from 0, and
    /// its first line.
    pub fn start(server: u16, plan: impl Fn(usize, &str) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, plan, count) = (Arc::clone(&heads), Arc::new(plan), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, plan, count) = (Arc::clone(&seen), Arc::clone(&plan), Arc::clone(&count));
                thread::spawn(move || {
                    // A client that ends the connection early has what it needs.
                    let _ = serve(client, server, |line| {
                        seen.lock().unwrap().push(line.to_owned());
                        plan(count.fetch_add(1, Ordering::Relaxed), line)
                    });
                });
            }
        });
        Self { port, heads }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first lines of all requests so far that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        self.heads.lock().unwrap().iter().filter(|head| head.contains(part)).cloned().collect()
    }
}

/// Passes one request on, and its answer back. One request per connection.
fn serve(mut client: TcpStream, server: u16, fault: impl Fn(&str) -> Fault) -> std::io::Result<()> {
    let (head, mut body) = head_of(&mut client)?;
    let length: usize = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    if header(&head, "expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut rest = vec![0; length.saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.extend(rest);
    let fault = fault(head.lines().next().unwrap_or_default());
    match &fault {
        Fault::Status500 => {
            return client.write_all(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        Fault::Drop => return Ok(()),
        Fault::Late(time) => thread::sleep(*time),
        Fault::Redirect(to) => {
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return client.write_all(answer.as_bytes());
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    let closing: Vec<&str> =
        head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    upstream.write_all(
        (closing.join("\r\n").trim_end().to_owned() + "\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    upstream.write_all(&body)?;
    let (head, mut body) = head_of(&mut upstream)?;
    upstream.read_to_end(&mut body)?;
    let half = body.len() / 2;
    let mut head = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).fold(
        String::new(),
        |all, line| match line.to_ascii_lowercase().starts_with("content-length:")
            && fault == Fault::Half
            && half > 0
        {
            true => format!("{all}Content-Length: {half}\r\n"),
            false => format!("{all}{line}\r\n"),
        },
    );
    head = head.trim_end().to_owned() + "\r\nConnection: close\r\n\r\n";
    client.write_all(head.as_bytes())?;
    match fault {
        Fault::Cut | Fault::Half => client.write_all(&body[..half]),
        Fault::Flip => {
            if let Some(byte) = body.get_mut(half) {
                *byte ^= 1;
            }
            client.write_all(&body)
        }
        Fault::Slow => body.chunks(body.len() / 20 + 1).try_for_each(|piece| {
            thread::sleep(Duration::from_millis(10));
            client.write_all(piece)
        }),
        _ => client.write_all(&body),
    }
}

/// The head of a message, and the beginning of its body.
fn head_of(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 1 << 16]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
