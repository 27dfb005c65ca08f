//! Object stores: every command by URL, against an S3-compatible server and a web server on loopback, in good order and not.

mod proxy;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::common::{CLASSES, Desk, cut};
use proxy::{Fault, Proxy};
use server::{KEY, SECRET, Server, TOKEN, files, lgd_at};

/// Files of `folder` whose names are not in `except`.
fn without(mut files: BTreeMap<String, Vec<u8>>, except: &[&str]) -> BTreeMap<String, Vec<u8>> {
    files.retain(|name, _| !except.iter().any(|part| name.contains(part)));
    files
}

/// Checks that what is stored below `prefix` is the folder `local`: the manifest, and once more below its hash with all
/// other files.
#[track_caller]
fn assert_stored(desk: &Desk, server: &Server, prefix: &str, local: &str, manifest: &str, except: &[&str]) {
    let stored = server.objects(desk, prefix);
    let folder = stored.keys().find_map(|name| Some(name.split_once('/')?.0.to_owned())).unwrap();
    let (versioned, plain): (BTreeMap<_, _>, BTreeMap<_, _>) =
        stored.into_iter().partition(|(name, _)| name.contains('/'));
    assert_eq!(plain.keys().collect::<Vec<_>>(), [manifest]);
    let strip = |(name, content): (String, Vec<u8>)| {
        (
            name.strip_prefix(&format!("{folder}/"))
                .unwrap_or_else(|| panic!("{name} of another version"))
                .to_owned(),
            content,
        )
    };
    let versioned: BTreeMap<_, _> = versioned.into_iter().map(strip).collect();
    assert_eq!(versioned[manifest], plain[manifest]);
    let (stored, local) = (without(versioned, except), without(files(&desk.path(local)), except));
    assert_eq!(stored.keys().collect::<Vec<_>>(), local.keys().collect::<Vec<_>>());
    for (name, content) in &local {
        assert!(*content == stored[name], "{prefix}/{name} differs from the local run's");
    }
}

/// Nothing below the desk that a command wrote has a credential.
#[track_caller]
fn assert_no_secrets(desk: &Desk) {
    for (name, content) in files(&desk.path("")) {
        for secret in [KEY, SECRET, TOKEN] {
            let found = content.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
            assert!(!found, "{name} has a credential");
        }
    }
}

/// Complete objects and artifacts that were fetched, and everything unfinished.
fn fetched(desk: &Desk, store: &str) -> (usize, usize) {
    let all = files(&desk.path(store));
    let artifacts = all.keys().filter(|name| name.starts_with("artifacts") && name.ends_with(".json"));
    (all.keys().filter(|name| name.starts_with("objects")).count(), artifacts.count())
}

#[test]
fn every_stage_by_url_ends_in_the_bytes_of_the_local_run() {
    let desk = Desk::cache_and_bank();
    let server = Server::s3();
    let proxy = Proxy::start(server.port, |_, _| Fault::None);
    let lgd = |line: &str| lgd_at(&desk, &proxy.url(), line);
    let train = "--student resnet18 --size 32 --batch 16 --epochs 1 --lr 0.01";
    desk.lgd(&format!("train --cache cache --images images --bank banks/ten {train} --out runs/a"))
        .ended(0, &[]);
    server.upload(&desk.path("images"), "images");
    lgd("plan --seconds 1 extract --images s3://bucket/images --teacher teacher --views 2 --out s3://bucket/cache")
        .ended(0, &[]);
    lgd("extract --images s3://bucket/images --teacher teacher --views 2 --with-center --out s3://bucket/cache")
        .ended(0, &["s3://bucket/cache"]);
    assert_stored(&desk, &server, "cache", "cache", "cache.json", &[]);
    lgd(
        "bank --cache s3://bucket/cache --teacher teacher --categories names.txt --out s3://bucket/banks/ten",
    )
    .ended(0, &["fetched s3://bucket/cache: "]);
    assert_stored(&desk, &server, "banks/ten", "banks/ten", "bank.json", &[]);
    let inputs = "--cache s3://bucket/cache --images s3://bucket/images --bank s3://bucket/banks/ten";
    let before = proxy.requests("GET /bucket/images/").len();
    let ran = lgd(&format!("train {inputs} {train} --out s3://bucket/runs/a"))
        .ended(0, &["stored s3://bucket/runs/a"]);
    assert!(!ran.stderr.contains("fetched s3://bucket/cache"), "{}", ran.stderr);
    assert_eq!(
        proxy.requests("GET /bucket/images/").len(),
        before,
        "the images were fetched by the extraction"
    );
    // These have times, or the places of the inputs.
    let other = ["run.json", "metrics", "events", "inputs.json", "report.html"];
    assert_stored(&desk, &server, "runs/a", "runs/a", "run.json", &other);
    let run = String::from_utf8(server.objects(&desk, "runs/a")["run.json"].clone()).unwrap();
    assert!(run.contains("\"bank_dir\": \"s3://bucket/banks/ten\""), "{run}");

    let verified = lgd("verify s3://bucket/cache").ended(0, &[]);
    assert!(verified.stdout.contains("s3://bucket/cache"), "{}", verified.stdout);
    lgd("inspect s3://bucket/runs/a").ended(0, &[]).printed(&["step 2 of 2, finished"]);
    let student = "--run s3://bucket/runs/a --bank s3://bucket/banks/ten";
    let eval = "--protocol zero-shot --json";
    let local = desk.lgd(&format!("eval --run runs/a --bank banks/ten --images images {eval}")).ended(0, &[]);
    let ran = lgd(&format!("eval {student} --images s3://bucket/images {eval}")).ended(0, &["fetched run"]);
    assert_eq!(ran.json()["zero_shot"]["student"], local.json()["zero_shot"]["student"]);
    let local = desk.lgd("predict --run runs/a --bank banks/ten images").ended(0, &[]);
    lgd(&format!("predict {student} s3://bucket/images --out s3://bucket/tables/names.csv")).ended(0, &[]);
    let names = String::from_utf8(server.objects(&desk, "tables").remove("names.csv").unwrap()).unwrap();
    assert_eq!(names.replace("s3://bucket/images/", "images/"), local.stdout);
    lgd("export --run s3://bucket/runs/a --out student.onnx").ended(0, &[]);
    lgd("export --run s3://bucket/runs/a --out s3://bucket/onnx/student.onnx").ended(0, &[]);
    assert_eq!(server.objects(&desk, "onnx")["student.onnx"], fs::read(desk.path("student.onnx")).unwrap());
    lgd("report s3://bucket/runs/a --cache s3://bucket/cache --out report.html").ended(0, &[]);
    lgd("report s3://bucket/runs/a").ended(2, &["--out"]);
    assert!(!desk.path("s3:").exists());
    assert_no_secrets(&desk);
}

/// Two archives of ten images, and the cache of them.
fn archives() -> Desk {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let pack = "import io, os, tarfile\n\
        names = sorted(os.path.join(c, n) for c in os.listdir('images') for n in os.listdir('images/' + c))\n\
        os.makedirs('tars')\n\
        for part in range(4):\n\
        \x20with tarfile.open(f'tars/part-{part}.tar', 'w') as tar:\n\
        \x20 for at, name in enumerate(names[part * 5:part * 5 + 5]):\n\
        \x20  tar.add('images/' + name, f'{part}{at}.png')\n";
    desk.python(pack).ended(0, &[]);
    desk.lgd(&format!("{EXTRACT} --images tars --out local")).ended(0, &[]);
    desk
}

const EXTRACT: &str = "extract --teacher teacher --views 2 --batch 4 --shard-samples 4";

#[test]
fn archives_are_fetched_ahead_into_a_folder_that_stays_small() {
    let desk = archives();
    let server = Server::s3();
    server.upload(&desk.path("tars"), "tars");
    let lgd = |line: &str| lgd_at(&desk, &server.url(), line);
    let expected = files(&desk.path("local"));
    let bytes: u64 = files(&desk.path("tars")).values().map(|tar| tar.len() as u64).sum();
    for (name, images) in [("a", "s3://bucket/tars"), ("b", "s3://bucket/tars/part-{0..3}.tar")] {
        lgd(&format!("{EXTRACT} --images {images} --out {name} --store-limit {}B", bytes * 3 / 4))
            .ended(0, &[]);
        assert!(expected == files(&desk.path(name)), "{images}");
        let kept: u64 = files(&desk.path("store/objects")).values().map(|file| file.len() as u64).sum();
        assert!(kept <= bytes * 3 / 4, "{kept} of {bytes} bytes are kept");
    }
    lgd(&format!("{EXTRACT} --images s3://bucket/tars/part-{{0..5}}.tar --out c"))
        .ended(2, &["2 of the 6 files", "part-4.tar"]);
    let train = "train --cache local --student mobilenet_v2 --size 32 --batch 8 --epochs 1 --objective seed --out run";
    lgd(&format!("{train} --images s3://bucket/tars --store-limit {}B", bytes * 3 / 4))
        .ended(2, &["s3://bucket/tars takes", "--store-limit"]);
    lgd(&format!("{train} --images s3://bucket/tars")).ended(0, &[]);
    lgd(&format!(
        "{EXTRACT} --images s3://bucket/tars/part-0.tar --out d --store-cache small --store-limit 1KB"
    ))
    .ended(2, &["part-0.tar takes", "--store-limit"]);
}

#[test]
fn lists_tables_and_single_images_are_read_by_url() {
    let desk = Desk::new();
    desk.images("images", 0, 2);
    desk.tiny_teacher("teacher", "linear.onnx");
    let table = "import os, pyarrow as pa, pyarrow.parquet as pq\n\
        names = sorted(os.path.join(c, n) for c in os.listdir('images') for n in os.listdir('images/' + c))\n\
        pq.write_table(pa.table({'image': [open('images/' + n, 'rb').read() for n in names]}), 'images.parquet')\n\
        open('list.csv', 'w').write('path,label\\n' + ''.join(f'images/{n},{n.split(\"/\")[0]}\\n' for n in names))\n";
    desk.python(table).ended(0, &[]);
    let server = Server::s3();
    fs::create_dir(desk.path("all")).unwrap();
    for name in ["images.parquet", "list.csv", "images"] {
        fs::rename(desk.path(name), desk.path("all").join(name)).unwrap();
    }
    server.upload(&desk.path("all"), "all");
    for name in ["images.parquet", "list.csv"] {
        desk.lgd(&format!("{EXTRACT} --images all/{name} --out {name}-local")).ended(0, &[]);
        lgd_at(&desk, &server.url(), &format!("{EXTRACT} --images s3://bucket/all/{name} --out {name}-url"))
            .ended(0, &[]);
        let [local, url] = ["local", "url"].map(|kind| files(&desk.path(&format!("{name}-{kind}"))));
        assert!(local == url, "{name}");
    }
}

#[test]
fn bad_answers_are_repeated_and_change_no_byte() {
    let desk = archives();
    let server = Server::s3();
    server.upload(&desk.path("tars"), "tars");
    server.upload(&desk.path("local"), "local");
    let expected = files(&desk.path("local"));
    for (round, fault) in
        [Fault::Status500, Fault::Drop, Fault::Cut, Fault::Half, Fault::Slow].into_iter().enumerate()
    {
        // Every request ends badly twice.
        let (bad, seen) = (fault.clone(), Mutex::new(HashMap::new()));
        let proxy = Proxy::start(server.port, move |_, line| {
            let mut seen = seen.lock().unwrap();
            let times: &mut usize = seen.entry(line.to_owned()).or_default();
            *times += 1;
            if *times <= 2 { bad.clone() } else { Fault::None }
        });
        let out = format!("s3://bucket/out-{round}");
        lgd_at(
            &desk,
            &proxy.url(),
            &format!("{EXTRACT} --images s3://bucket/tars --out {out} --store-cache {round}"),
        )
        .ended(0, &[]);
        assert_stored(&desk, &server, &format!("out-{round}"), "local", "cache.json", &[]);
        // A copied folder is read, too.
        lgd_at(&desk, &proxy.url(), &format!("inspect s3://bucket/local --store-cache {round}"))
            .ended(0, &[]);
        let (_, artifacts) = fetched(&desk, &round.to_string());
        assert_eq!(artifacts, 1, "{fault:?}");
        for (name, content) in &expected {
            let copies = files(&desk.path(&format!("{round}/artifacts")));
            let copy = copies.iter().find(|(path, _)| path.ends_with(name)).map(|(_, copy)| copy);
            assert!(copy == Some(content), "{fault:?}: {name}");
        }
    }
}

#[test]
fn nothing_is_half_taken_when_every_answer_is_bad() {
    let desk = archives();
    let server = Server::s3();
    server.upload(&desk.path("tars"), "tars");
    server.upload(&desk.path("local"), "local");
    for (round, fault) in [Fault::Drop, Fault::Half, Fault::Flip].into_iter().enumerate() {
        let bad = fault.clone();
        let proxy = Proxy::start(server.port, move |_, line| {
            match line.contains("views-") || line.contains(".tar") {
                true => bad.clone(),
                false => Fault::None,
            }
        });
        let store = format!("--store-cache {round}");
        lgd_at(&desk, &proxy.url(), &format!("inspect s3://bucket/local {store}"))
            .ended(3, &["s3://bucket/local/views-0000"]);
        let (objects, artifacts) = fetched(&desk, &round.to_string());
        assert_eq!((objects, artifacts), (0, 0), "{fault:?}");
        if fault != Fault::Flip {
            lgd_at(&desk, &proxy.url(), &format!("{EXTRACT} --images s3://bucket/tars --out out {store}"))
                .ended(3, &["s3://bucket/tars/part-"]);
            assert!(
                !desk.path("out/cache.json").exists() && fetched(&desk, &round.to_string()).0 == 0,
                "{fault:?}"
            );
        }
        // Only a lost connection prevents that a file is stored.
        if fault == Fault::Drop {
            lgd_at(
                &desk,
                &proxy.url(),
                &format!("{EXTRACT} --images tars --out s3://bucket/o{round} {store}"),
            )
            .ended(3, &[&format!("s3://bucket/o{round}/")]);
            assert!(!server.keys(&format!("o{round}")).contains(&"cache.json".to_owned()), "{fault:?}");
            lgd_at(&desk, &server.url(), &format!("inspect s3://bucket/o{round} {store}"))
                .ended(3, &["does not exist"]);
            // The local output waits in the store's folder; the same command stores it.
            let again = format!("{EXTRACT} --images tars --out s3://bucket/o{round} --resume {store}");
            lgd_at(&desk, &server.url(), &again).ended(0, &[]);
            assert_stored(&desk, &server, &format!("o{round}"), "local", "cache.json", &[]);
        }
    }
}

#[test]
fn of_two_writers_one_fails_and_the_other_is_whole() {
    let desk = archives();
    let server = Server::s3();
    let slow = Proxy::start(server.port, |_, line| match line.starts_with("PUT /bucket/out/cache.json") {
        true => Fault::Late(Duration::from_secs(6)),
        false => Fault::None,
    });
    let mut loser = desk.command();
    let line = format!("{EXTRACT} --images tars --seed 1 --out s3://bucket/out --store-cache loser");
    loser.args(line.split(' ')).env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    loser.env("AWS_ENDPOINT_URL", slow.url()).stderr(Stdio::piped()).stdout(Stdio::null());
    let loser = loser.spawn().unwrap();
    while slow.requests("PUT /bucket/out/cache.json").is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    let winner = format!("{EXTRACT} --images tars --out s3://bucket/out");
    lgd_at(&desk, &server.url(), &winner).ended(0, &[]);
    let lost = loser.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&lost.stderr);
    assert!(lost.status.code() == Some(3) && text.contains("written by another process"), "{text}");
    assert_stored(&desk, &server, "out", "local", "cache.json", &[]);

    lgd_at(&desk, &server.url(), &winner).ended(2, &["already holds", "--overwrite"]);
    lgd_at(
        &desk,
        &server.url(),
        &format!("{EXTRACT} --images tars --seed 2 --out s3://bucket/out --overwrite"),
    )
    .ended(0, &[]);
    let versions = server
        .keys("out")
        .iter()
        .filter_map(|key| Some(key.split_once('/')?.0.to_owned()))
        .collect::<Vec<_>>();
    assert!(versions.windows(2).all(|two| two[0] == two[1]), "the replaced files are gone: {versions:?}");
    lgd_at(&desk, &server.url(), "verify s3://bucket/out").ended(0, &[]);
    let bank = "bank --cache local --target kdep --dim 2 --out s3://bucket/out";
    lgd_at(&desk, &server.url(), bank).ended(2, &["cache.json", "another kind"]);
}

#[test]
fn objects_that_change_and_manifests_that_lie_are_named() {
    let desk = archives();
    let server = Server::s3();
    server.upload(&desk.path("tars"), "tars");
    let changes =
        Proxy::start(server.port, |_, line| match line.starts_with("GET /bucket/tars/part-1.tar") {
            true => Fault::Late(Duration::from_secs(12)),
            false => Fault::None,
        });
    let mut command = desk.command();
    command.args(format!("{EXTRACT} --images s3://bucket/tars --out out --store-cache store").split(' '));
    command
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_ENDPOINT_URL", changes.url());
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    while changes.requests("GET /bucket/tars/part-1.tar").is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    fs::copy(desk.path("tars/part-0.tar"), desk.path("tars/part-1.tar")).unwrap();
    server.upload(&desk.path("tars"), "tars");
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(3) && text.contains("s3://bucket/tars/part-1.tar changed"), "{text}");

    let manifest = desk.path("local/cache.json");
    cut(&manifest);
    server.upload(&desk.path("local"), "cut");
    lgd_at(&desk, &server.url(), "inspect s3://bucket/cut").ended(3, &["s3://bucket/cut/cache.json"]);
    assert_eq!(fetched(&desk, "store").1, 0);
}

#[test]
fn web_servers_are_read_and_redirects_to_other_hosts_are_not_followed() {
    let desk = archives();
    let web = Server::web(&desk.path(""));
    let lgd = |line: &str| lgd_at(&desk, "http://127.0.0.1:9", line);
    let expected = files(&desk.path("local"));
    let secret =
        format!("http://me:pass-word@127.0.0.1:{}/tars/part-{{0..3}}.tar?sig=signed-query", web.port);
    let ran = lgd(&format!("{EXTRACT} --images {secret} --out out")).ended(0, &[]);
    assert!(expected == files(&desk.path("out")));
    lgd(&format!("{EXTRACT} --images {secret} --out {}", secret.replace("part", "x")))
        .ended(2, &["only read"]);
    let wrong = lgd(&format!("verify local {secret}")).ended(2, &["***"]);
    let gone = lgd(&format!("{EXTRACT} --images {} --out out3", secret.replace("part", "gone")))
        .ended(2, &["4 of the 4"]);
    for text in [&ran.stderr, &ran.stdout, &wrong.stderr, &gone.stderr] {
        assert!(!text.contains("pass-word") && !text.contains("signed-query"), "{text}");
    }
    for (name, content) in files(&desk.path("")) {
        let found = [&b"pass-word"[..], b"signed-query"]
            .iter()
            .any(|secret| content.windows(secret.len()).any(|bytes| bytes == *secret));
        assert!(!found, "{name} has a password or a signature");
    }
    let url = format!("http://127.0.0.1:{}", web.port);
    lgd(&format!("verify {url}/local")).ended(0, &[]);
    lgd(&format!("{EXTRACT} --images {url}/images --out out4")).ended(3, &["cannot be listed"]);
    let train = "train --student mobilenet_v2 --size 32 --batch 8 --epochs 1 --objective seed --out run";
    lgd(&format!("{train} --cache {url}/local --images {url}/tars/part-{{0..3}}.tar")).ended(0, &[]);

    let other = format!("http://localhost:{}/tars/part-0.tar", web.port);
    let away = Proxy::start(web.port, move |_, _| Fault::Redirect(other.clone()));
    lgd(&format!("{EXTRACT} --images {}/tars/part-0.tar --out out5", away.url())).ended(3, &["another host"]);
    let within = Proxy::start(web.port, |_, line| match line.contains("/moved/") {
        true => Fault::Redirect("/tars/part-0.tar".to_owned()),
        false => Fault::None,
    });
    lgd(&format!("{EXTRACT} --images {}/moved/part-0.tar --out out6", within.url())).ended(0, &[]);
}

#[test]
fn urls_that_mean_nothing_are_refused_by_name() {
    let desk = archives();
    for (line, code, parts) in [
        (
            "extract --images tars --teacher s3://bucket/teacher --out c",
            2,
            &["--teacher", "takes no URL"][..],
        ),
        ("extract --images hf://data/x --teacher teacher --out c", 2, &["hf://data/x", "s3://"]),
        ("extract --images s3:/bucket/x --teacher teacher --out c", 2, &["two slashes"]),
        ("extract --images tars --teacher teacher --out s3://bucket", 2, &["whole bucket"]),
        ("extract --images tars --teacher teacher --out s3://bucket/c --partition 0/2", 2, &["--partition"]),
        ("extract --images tars --teacher teacher --out s3://key:hidden@bucket/c", 2, &["environment"]),
        ("verify --repair s3://bucket/c", 2, &["--repair"]),
        ("manual --out s3://bucket/c", 2, &["takes no URL"]),
        ("inspect file:///tmp/x", 2, &["file:///tmp/x", "hint:"]),
        ("inspect s3://bucket/c --store-limit 3", 2, &["64GB"]),
    ] {
        let ran = lgd_at(&desk, "http://127.0.0.1:9", line).ended(code, parts);
        assert!(!ran.stderr.contains("hidden"), "{}", ran.stderr);
    }
    // A server that is not there.
    lgd_at(&desk, "http://127.0.0.1:9", "inspect s3://bucket/c").ended(3, &["cannot read s3://bucket/c/"]);
    let made: Vec<_> = fs::read_dir(desk.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(made.iter().all(|name| !name.to_string_lossy().contains(':')), "{made:?}");
    assert!(CLASSES.iter().all(|class| Path::new(&desk.path("images")).join(class).exists()));
}
