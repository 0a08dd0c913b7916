//! Showing a router who we are: SASL EXTERNAL over TLS, the client's half of RFC 4422 in AMQP's frames.
//!
//! The AMQP library leaves the initial response out; a router then asks for it by a challenge, which the library does
//! not answer. So the layer is spoken here, and the library begins at the one above.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// sasl-init: mechanism EXTERNAL, an initial response that is there and empty.
const INIT: &[u8] = b"\x00\x53\x41\xc0\x0d\x02\xa3\x08EXTERNAL\xa0\x00";

/// The longest frame of this layer.
const LONGEST: usize = 512;

/// Authenticates by the certificate that TLS showed. Reads not a byte beyond the outcome.
pub async fn external(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&HEADER).await?;
    stream.flush().await?;
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    if header != HEADER {
        return Err(io::Error::other("it speaks no SASL"));
    }
    loop {
        let frame = read_frame(stream).await?;
        match frame.as_slice() {
            [0, 0x53, 0x40, ..] if frame.windows(8).any(|name| name == b"EXTERNAL") => {
                write_frame(stream, INIT).await?
            }
            [0, 0x53, 0x40, ..] => return Err(io::Error::other("it believes no certificate of ours")),
            // The list's size and count, of one byte each, stand before the code.
            [0, 0x53, 0x44, 0xc0, _, _, 0x50, 0, ..] => return Ok(()),
            [0, 0x53, 0x44, ..] => return Err(io::Error::other("it does not let us in")),
            _ => return Err(io::Error::other("it asks for more than a certificate")),
        }
    }
}

/// The body of a frame.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let [a, b, c, d, offset, kind, _, _] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if offset != 2 || kind != 1 || !(8..=LONGEST).contains(&length) {
        return Err(io::Error::other("it sends no SASL frame"));
    }
    let mut body = vec![0; length - 8];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 8).map_err(io::Error::other)?;
    let frame = [length.to_be_bytes().as_slice(), &[2, 1, 0, 0], body].concat();
    stream.write_all(&frame).await?;
    stream.flush().await
}
