//! As much of HTTP/1.1 as a Kubernetes client asks of a server: requests that stay on their connection, answers as a
//! whole or in chunks.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// How long a read waits before it is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(200);
/// The most that a body may have: events are short.
const LONGEST: u64 = 1 << 20;

/// A request, without its body.
pub(super) struct Request {
    /// `GET` and so on.
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// The query, decoded.
    pub(super) query: BTreeMap<String, String>,
}

/// One client's connection.
pub(super) struct Conversation {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Conversation {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream.try_clone()?), writer: stream })
    }

    /// The next request; none once the client has closed, or `go_on` says no.
    pub(super) fn request(&mut self, go_on: &dyn Fn() -> bool) -> io::Result<Option<Request>> {
        let Some(first) = self.line(go_on)? else { return Ok(None) };
        let mut length = 0;
        loop {
            let Some(line) = self.line(go_on)? else { return Ok(None) };
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        if length > LONGEST {
            return Err(io::Error::other("a body that is too long"));
        }
        io::copy(&mut Read::by_ref(&mut self.reader).take(length), &mut io::sink())?;
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Some(Request { method, path: path.to_owned(), query: parse(query) }))
    }

    fn line(&mut self, go_on: &dyn Fn() -> bool) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            match self.reader.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => break,
                Ok(_) => return Ok(None),
                Err(error) if is_passing(&error) && go_on() => {}
                Err(error) if is_passing(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
    }

    /// Answers with a document.
    pub(super) fn answer(&mut self, status: u16, body: &Value) -> io::Result<()> {
        let body = body.to_string();
        write!(
            self.writer,
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Begins an answer that comes in lines.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.writer.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
    }

    /// One line of it.
    pub(super) fn send(&mut self, line: &Value) -> io::Result<()> {
        let text = format!("{line}\n");
        write!(self.writer, "{:x}\r\n{text}\r\n", text.len())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn parse(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// Undoes percent encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let code = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        (bytes, rest) = match (first, code) {
            (b'%', Some(code)) => (push(bytes, code), &after[2..]),
            (b'+', _) => (push(bytes, b' '), after),
            _ => (push(bytes, *first), after),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = parse("labelSelector=%21a%2Fb&watch=true&fieldSelector=x%21%3DNone");
        assert_eq!(query["labelSelector"], "!a/b");
        assert_eq!(query["fieldSelector"], "x!=None");
    }
}
