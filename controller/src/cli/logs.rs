//! Output of work on hosts, printed.

use serde_json::Value;

use super::{
    Failure, Result,
    client::{Client, query},
    output,
};
use crate::fleet::logs::Piece;

/// Prints all output at a path of the API.
pub(crate) fn whole(client: &Client, path: &str, stream: Option<&str>) -> Result {
    let joint = if path.contains('?') { '&' } else { '?' };
    let query = query(&[("stream", stream.unwrap_or_default().to_owned())]);
    client.pages(&format!("{path}{joint}{query}"), |page| {
        page.into_iter().try_for_each(|piece| {
            let piece = serde_json::from_value(piece).map_err(|e| Failure::failed(e.to_string()))?;
            print_piece(&piece)
        })
    })
}

/// Prints output at a path of the API as it comes, until its work ends; gives what is said of that end.
pub(crate) fn follow(client: &Client, path: &str, stream: Option<&str>) -> Result<Value> {
    let ended = client.follow(path, |message| match message.event.as_str() {
        "piece" => {
            let piece: Piece = serde_json::from_str(&message.data).map_err(|e| Failure::failed(e.to_string()))?;
            if stream.is_none_or(|s| s == piece.stream) {
                print_piece(&piece)?;
            }
            Ok(None)
        }
        "end" => serde_json::from_str(&message.data).map(Some).map_err(|e| Failure::failed(e.to_string())),
        _ => Ok(None),
    })?;
    ended.ok_or_else(|| Failure::new(Failure::UNREACHABLE, "the stream broke off before the work ended"))
}

/// Output goes where it went on the host.
fn print_piece(piece: &Piece) -> Result {
    match &piece.text {
        Some(text) if piece.stream == "stderr" => eprint!("{text}"),
        Some(text) => output::print(text)?,
        None => eprintln!("[{} bytes of {} were dropped]", piece.ends - piece.begins, piece.stream),
    }
    Ok(())
}
