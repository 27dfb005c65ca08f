//! Servers of a test, on loopback: moto, which is S3-compatible, and Python's plain web server.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Desk, Ran, third_party};

/// A server process, which ends with this value.
pub struct Server {
    process: Child,
    pub port: u16,
}

impl Server {
    /// Starts an S3-compatible server with the bucket `bucket`.
    pub fn s3() -> Self {
        let server = Self::start(|port| {
            let mut command = Command::new(third_party("moto-venv/bin/python"));
            let main = "import sys; from moto.server import main; main(sys.argv[1:])";
            command.args(["-c", main, "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        });
        server.bucket("s3.create_bucket(Bucket='bucket')", Path::new("/"));
        server
    }

    /// Starts a plain web server on a folder.
    pub fn web(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self::start(move |port| {
            let mut command = Command::new(third_party("venv/bin/python"));
            command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(&folder);
            command.arg(port.to_string());
            command
        })
    }

    fn start(command: impl Fn(u16) -> Command) -> Self {
        // Another process may take the port before the server does, so the next one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut process = command(port).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(60) && process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { process, port };
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = process.kill();
        }
        panic!("the server does not start");
    }

    /// Runs Python with `s3`, a client of this server, `sys.argv[1]` = `path`, and helpers.
    fn bucket(&self, script: &str, path: &Path) -> String {
        let head = format!(
            "import boto3, os, sys\n\
             s3 = boto3.client('s3', endpoint_url='http://127.0.0.1:{}', aws_access_key_id='test', aws_secret_access_key='test', region_name='us-east-1')\n",
            self.port
        );
        let output = Command::new(third_party("moto-venv/bin/python"))
            .arg("-c")
            .arg(head + script)
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stores all files of a folder below `prefix`.
    pub fn upload(&self, folder: &Path, prefix: &str) {
        let script = format!(
            "for folder, _, names in os.walk(sys.argv[1]):\n\
             \x20for name in names:\n\
             \x20 path = os.path.join(folder, name)\n\
             \x20 s3.upload_file(path, 'bucket', '{prefix}/' + os.path.relpath(path, sys.argv[1]))\n"
        );
        self.bucket(&script, folder);
    }

    /// The keys in the bucket below `prefix`, without it.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let script = format!(
            "for page in s3.get_paginator('list_objects_v2').paginate(Bucket='bucket', Prefix='{prefix}/'):\n\
             \x20for item in page.get('Contents', []): print(item['Key'][len('{prefix}/'):])\n"
        );
        self.bucket(&script, Path::new("/")).lines().map(str::to_owned).collect()
    }

    /// The objects below `prefix`, with their content, by their names without the folder of the version.
    pub fn objects(&self, desk: &Desk, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let to = desk.path("download");
        let _ = fs::remove_dir_all(&to);
        let script = format!(
            "for page in s3.get_paginator('list_objects_v2').paginate(Bucket='bucket', Prefix='{prefix}/'):\n\
             \x20for item in page.get('Contents', []):\n\
             \x20 path = os.path.join(sys.argv[1], item['Key'][len('{prefix}/'):])\n\
             \x20 os.makedirs(os.path.dirname(path), exist_ok=True)\n\
             \x20 s3.download_file('bucket', item['Key'], path)\n"
        );
        self.bucket(&script, &to);
        files(&to)
    }

    /// The URL of the server, as AWS_ENDPOINT_URL has it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Names and contents of all files below a folder, except hidden ones.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Credentials that must not appear anywhere.
pub const KEY: &str = "AKIATESTTESTTESTTEST";
pub const SECRET: &str = "verysecretverysecretverysecret";
pub const TOKEN: &str = "sessiontokensessiontoken";

/// Runs `lgd` with the credentials and the endpoint of an S3-compatible server. Fetched files go to `store`.
pub fn lgd_at(desk: &Desk, endpoint: &str, line: &str) -> Ran {
    let mut command = desk.command();
    command.args(line.split_whitespace());
    if !line.contains("--store-cache") {
        command.args(["--store-cache", "store"]);
    }
    let credentials =
        [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", TOKEN)];
    command.envs(credentials).env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", "us-east-1");
    let ran = Ran::new(&command.output().unwrap());
    for secret in [KEY, SECRET, TOKEN] {
        assert!(
            !format!("{}{}", ran.stdout, ran.stderr).contains(secret),
            "{line}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    ran
}
