use std::fs::File;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn open(dir: &Path) -> Arc<Blobs> {
    Blobs::open(dir, 1 << 20).unwrap().into()
}

fn key(id: &str) -> Key {
    Key::new("t.x", id)
}

fn digest(bytes: &[u8]) -> String {
    muster_pki::hex(&muster_pki::sha256(bytes))
}

/// Waits for a blob beside the test.
fn need(blobs: &Arc<Blobs>, bytes: &'static [u8]) -> tokio::task::JoinHandle<Result<PathBuf, String>> {
    let blobs = blobs.clone();
    tokio::spawn(async move { blobs.need(&digest(bytes), bytes.len() as u64).await })
}

/// Waits until somebody waits for as many blobs.
async fn waited_for(blobs: &Blobs, count: usize) {
    while blobs.to_fetch().len() != count {
        tokio::task::yield_now().await;
    }
}

/// Lets a blob arrive from where it stopped, in two pieces.
async fn arrive(blobs: &Blobs, bytes: &'static [u8]) {
    let mut it = blobs.arriving(&digest(bytes), bytes.len() as u64).await.unwrap().expect("it is not here");
    let from = it.there() as usize;
    let middle = from + (bytes.len() - from) / 2;
    for piece in [&bytes[from..middle], &bytes[middle..]] {
        it.append(bytes::Bytes::from_static(piece)).await.unwrap();
    }
    assert!(it.is_whole() && it.finish().await.unwrap());
    blobs.conclude(&digest(bytes), Ok(()));
}

#[tokio::test]
async fn those_who_need_one_blob_share_it_and_find_it_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let waiting = [need(&blobs, b"a graph"), need(&blobs, b"a graph")];
    waited_for(&blobs, 1).await;
    assert_eq!(blobs.to_fetch(), [(digest(b"a graph"), 7)]);
    arrive(&blobs, b"a graph").await;
    for waiter in waiting {
        assert_eq!(fs::read(waiter.await.unwrap().unwrap()).unwrap(), b"a graph");
    }
    let again = open(dir.path());
    let path = again.need(&digest(b"a graph"), 7).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"a graph");
    let other = again.need(&digest(b"a graph"), 8).await.unwrap_err();
    assert!(other.contains("7 bytes, not 8"), "{other}");
    fs::remove_file(path).unwrap();
    let waiter = need(&again, b"a graph");
    waited_for(&again, 1).await;
    waiter.abort();
}

#[tokio::test]
async fn what_arrived_before_a_restart_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let blobs = open(dir.path());
        let waiter = need(&blobs, b"0123456789");
        waited_for(&blobs, 1).await;
        let mut it = blobs.arriving(&digest(b"0123456789"), 10).await.unwrap().unwrap();
        it.append(bytes::Bytes::from_static(b"0123")).await.unwrap();
        let more = it.append(bytes::Bytes::from_static(b"456789+")).await;
        assert!(more.unwrap_err().to_string().contains("10 bytes"));
        waiter.abort();
    }
    let blobs = open(dir.path());
    let waiter = need(&blobs, b"0123456789");
    waited_for(&blobs, 1).await;
    assert_eq!(blobs.arriving(&digest(b"0123456789"), 10).await.unwrap().unwrap().there(), 4);
    arrive(&blobs, b"0123456789").await;
    assert_eq!(fs::read(waiter.await.unwrap().unwrap()).unwrap(), b"0123456789");
}

#[tokio::test]
async fn a_blob_of_other_bytes_is_not_given_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let waiter = need(&blobs, b"right");
    waited_for(&blobs, 1).await;
    let mut it = blobs.arriving(&digest(b"right"), 5).await.unwrap().unwrap();
    it.append(bytes::Bytes::from_static(b"wrong")).await.unwrap();
    assert!(!it.finish().await.unwrap());
    assert_eq!(blobs.arriving(&digest(b"right"), 5).await.unwrap().unwrap().there(), 0);
    assert!(!waiter.is_finished());
    blobs.conclude(&digest(b"right"), Err("home has no such blob".into()));
    assert_eq!(waiter.await.unwrap(), Err("home has no such blob".into()));
    assert!(blobs.to_fetch().is_empty());
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let waiter = need(&blobs, b"0123456789");
    waited_for(&blobs, 1).await;
    let mut it = blobs.arriving(&digest(b"0123456789"), 10).await.unwrap().unwrap();
    it.append(bytes::Bytes::from_static(b"0123")).await.unwrap();
    drop(it);
    waiter.abort();
    waited_for(&blobs, 0).await;
    assert_eq!(list(&dir.path().join("blobs/in")).unwrap().len(), 0);
}

#[tokio::test]
async fn what_was_brought_is_there_after_a_restart_oldest_first_until_home_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![7; muster_proto::BLOB_PIECE + 5];
    {
        let blobs = open(dir.path());
        assert_eq!(blobs.bring(&key("a"), b"first").unwrap(), digest(b"first"));
        let file = dir.path().join("made");
        fs::write(&file, &large).unwrap();
        assert_eq!(blobs.bring_file(&key("b"), &file).await.unwrap(), digest(&large));
        blobs.bring(&key("a"), b"first").unwrap();
        blobs.bring(&key("c"), b"first").unwrap();
        blobs.bring(&key("c"), b"").unwrap();
    }
    // Cut off while it was written, and nobody was told that it is kept.
    let out = dir.path().join("blobs/out");
    fs::write(out.join("00000000000000000009.tmp"), "{").unwrap();
    fs::write(out.join("00000000000000000008"), "{\"kind\":\"t.x\"").unwrap();
    let blobs = open(dir.path());
    let all = blobs.to_bring();
    let said: Vec<_> = all.iter().map(|out| (out.key.id.as_str(), out.size)).collect();
    assert_eq!(said, [("a", 5), ("b", large.len() as u64), ("c", 5), ("c", 0)]);
    let reading = all[1].read().unwrap();
    let (head, tail) = (reading.piece(0).await.unwrap(), reading.piece(muster_proto::BLOB_PIECE as u64).await.unwrap());
    assert_eq!((head.len(), &tail[..]), (muster_proto::BLOB_PIECE, &[7; 5][..]));
    assert!(reading.piece(large.len() as u64).await.unwrap().is_empty());
    assert_eq!(reading.digest().await.unwrap(), digest(&large));
    all.iter().for_each(|out| blobs.is_home(out));
    blobs.bring(&key("d"), b"later").unwrap();
    assert_eq!(open(dir.path()).to_bring().len(), 1);
    assert_eq!(list(&out).unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_kept_has_a_ceiling_and_what_is_needed_or_not_home_yet_stays_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Blobs::open(dir.path(), 20).unwrap());
    let blobs = open();
    let waiter = need(&blobs, b"0123456789");
    waited_for(&blobs, 1).await;
    arrive(&blobs, b"0123456789").await;
    let path = waiter.await.unwrap().unwrap();
    blobs.bring(&key("a"), b"12345").unwrap();
    let full = blobs.bring(&key("a"), b"123456").unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(full.to_string().contains("blobs_bytes allows 20"), "{full}");
    let full = blobs.need(&digest(b"other"), 6).await.unwrap_err();
    assert!(full.contains("6 bytes does not fit beside 15"), "{full}");

    File::open(&path).unwrap().set_modified(SystemTime::now() - 2 * FRESH).unwrap();
    let blobs = open();
    blobs.bring(&key("a"), b"123456").unwrap();
    assert!(!path.exists(), "nobody has needed it for an hour");
    assert_eq!(blobs.to_bring().len(), 2);
}

#[tokio::test]
async fn a_blob_that_nobody_needs_is_dropped_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let waiter = need(&blobs, b"0123456789");
    waited_for(&blobs, 1).await;
    arrive(&blobs, b"0123456789").await;
    let path = waiter.await.unwrap().unwrap();
    blobs.bring(&key("a"), b"made here").unwrap();
    let begun = dir.path().join("blobs/in").join(format!("{}.part", digest(b"begun")));
    fs::write(&begun, "be").unwrap();
    let blobs = open(dir.path());
    blobs.forget(SystemTime::now() + DAY - Duration::from_secs(60));
    assert!(path.exists() && begun.exists());
    blobs.forget(SystemTime::now() + DAY + Duration::from_secs(60));
    assert!(!path.exists() && !begun.exists());
    assert_eq!(blobs.to_bring().len(), 1, "home does not have it");
}
