use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{Objects, ObjectsError, PART_BYTES, WriteError, Written, read};

/// Bytes that do not compress well, of any length, always the same.
fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(length).collect()
}

fn chunks(data: &Bytes) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Unpin + use<> {
    let data = data.clone();
    let starts = (0..data.len()).step_by(700_001);
    stream::iter(starts.map(move |start| Ok(data.slice(start..data.len().min(start + 700_001)))))
}

async fn whole(objects: &Objects, key: &str, written: &Written) -> Result<Vec<u8>, ObjectsError> {
    let content = read(objects.clone(), key.into(), written.bytes, written.sha256.clone()).await?;
    content
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

fn both() -> (tempfile::TempDir, [Objects; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let objects =
        [Objects::new(Arc::new(InMemory::new())), Objects::folder(&folder.path().join("o")).unwrap()];
    (folder, objects)
}

#[tokio::test]
async fn what_is_written_is_read() {
    let (_folder, stores) = both();
    for objects in stores {
        for data in
            [Bytes::new(), noise(1), noise(300_000), noise(2 * PART_BYTES + 5), vec![0; 30_000_000].into()]
        {
            let written = objects.write("a/b c", chunks(&data), data.len() as u64).await.unwrap();
            assert_eq!(written.bytes, data.len() as u64);
            assert!(whole(&objects, "a/b c", &written).await.unwrap() == data);
        }
        objects.delete("a/b c").await.unwrap();
        objects.delete("a/b c").await.unwrap();
        let gone = whole(&objects, "a/b c", &Written { bytes: 1, sha256: String::new() }).await.unwrap_err();
        assert!(matches!(gone, ObjectsError::Corrupt { .. }), "{gone}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_is_not_there() {
    let (_folder, stores) = both();
    let data = noise(2 * PART_BYTES);
    for objects in stores {
        let error = objects.write("k", chunks(&data), data.len() as u64 - 1).await.unwrap_err();
        assert!(matches!(error, WriteError::TooLarge(_)), "{error}");
        let broken = chunks(&data).chain(stream::iter([Err(std::io::Error::other("cut"))]));
        let error = objects.write("k", broken, u64::MAX).await.unwrap_err();
        assert!(matches!(error, WriteError::Source(_)), "{error}");
        let left: Vec<_> = objects.store.list(None).try_collect().await.unwrap();
        assert_eq!(left, []);
    }
}

#[tokio::test]
async fn what_was_changed_is_noticed_before_the_end() {
    let store = Arc::new(InMemory::new());
    let objects = Objects::new(store.clone());
    let data = noise(400_000);
    let written = objects.write("k", chunks(&data), u64::MAX).await.unwrap();
    let stored = store.get(&Path::from("k")).await.unwrap().bytes().await.unwrap();
    let other = Written { sha256: "00".repeat(32), ..written.clone() };
    let fewer = Written { bytes: written.bytes - 1, ..written.clone() };
    let more = Written { bytes: written.bytes + 1, ..written.clone() };
    for wrong in [other, fewer, more] {
        let mut content =
            Box::pin(read(objects.clone(), "k".into(), wrong.bytes, wrong.sha256).await.unwrap());
        let mut seen = 0;
        let error = loop {
            match content.next().await.unwrap() {
                Ok(piece) => seen += piece.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ObjectsError::Corrupt { .. }) && seen < data.len(), "{error}: {seen}");
    }
    for place in [10, stored.len() / 2, stored.len() - 10] {
        let mut changed = stored.to_vec();
        changed[place] ^= 1;
        store.put(&Path::from("k"), changed.into()).await.unwrap();
        let error = whole(&objects, "k", &written).await.unwrap_err();
        assert!(matches!(error, ObjectsError::Corrupt { .. }), "{error}");
    }
    store.put(&Path::from("k"), stored.slice(..stored.len() / 2).into()).await.unwrap();
    let error = whole(&objects, "k", &written).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_url_names_an_object_store_and_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("objects");
    Objects::open(&format!("file://{}", inside.display())).unwrap();
    assert!(inside.is_dir());
    for wrong in ["", "objects", "ftp://u:secret@host/x", "http://host/x", "memory:///", "s3://"] {
        let error = Objects::open(wrong).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn what_a_killed_upload_left_in_a_folder_goes_with_its_object() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::folder(folder.path()).unwrap();
    let data = noise(10);
    objects.write("checkpoints/t/one.zst", chunks(&data), 10).await.unwrap();
    let place = folder.path().join("checkpoints/t");
    let names = || {
        let entries = std::fs::read_dir(&place).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["one.zst"]);
    // As the library names them: an upload that is forgotten without its end, as by a process that was killed.
    let mut upload = objects.store.put_multipart(&Path::from("checkpoints/t/two.zst")).await.unwrap();
    upload.put_part(object_store::PutPayload::from_bytes(data)).await.unwrap();
    let left = names();
    assert_eq!((left.len(), left[1].starts_with("two.zst#")), (2, true), "{left:?}");
    for other in ["two.zst#12", "two.zst#x", "two.zst.y#1"] {
        std::fs::write(place.join(other), "x").unwrap();
    }
    objects.delete("checkpoints/t/two.zst").await.unwrap();
    assert_eq!(names(), ["one.zst", "two.zst#x", "two.zst.y#1"], "those of others stay");
    std::mem::forget(upload);
    for other in ["two.zst#x", "two.zst.y#1"] {
        std::fs::remove_file(place.join(other)).unwrap();
    }
    std::fs::write(place.join("one.zst#1"), "x").unwrap();
    objects.delete("checkpoints/t/one.zst").await.unwrap();
    objects.delete("checkpoints/t/one.zst").await.unwrap();
    assert!(!place.exists(), "nothing is left over");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("three.zst#7"), "x").unwrap();
    objects.delete("checkpoints/t/three.zst").await.unwrap();
    assert!(!place.exists(), "an upload that never became an object, neither");
}
