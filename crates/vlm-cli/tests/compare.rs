//! Methods side by side: listed, trained under one budget, planned.

mod common;

use std::fs;
use std::path::Path;

use common::{fresh, questions as data, refuses, speaking as model, vlm, works};

#[test]
fn methods_are_listed_and_compared() {
    let listed = works(vlm().arg("methods"));
    assert!(listed.contains("lora-fa") && listed.lines().count() == 17, "{listed}");
    let counted = works(vlm().arg("methods").arg("--model").arg(model()));
    let lora = counted.lines().find(|line| line.starts_with("lora ")).unwrap();
    assert!(lora.contains(" %") && !lora.contains(" 0.00 %"), "{lora}");
    let dir = fresh("compare");
    let (data, out) = (data(&dir), dir.join("out"));
    let compare_in = |out: &Path, methods: &str| {
        let mut command = vlm();
        command.arg("compare").arg("--model").arg(model()).arg("--data").arg(&data);
        command.arg("--test").arg(&data).arg("--out").arg(out).args(["--methods", methods]);
        command.args(["--steps", "2", "--batch", "1", "--seeds", "2", "--lr", "ia3=0.01"]);
        command
    };
    let compare = |methods: &str| compare_in(&out, methods);
    let table = works(&mut compare("ia3,prefix"));
    assert!(table.contains("| ia3 |") && table.contains("| prefix |"), "{table}");
    // A method with settings, and all weights.
    let table = works(&mut compare("ia3,lora:r=1,full"));
    assert!(table.contains("| lora:r=1 |") && table.contains("| full |"), "{table}");
    assert!(out.join("lora_r_1-2/adapter").exists() && out.join("full-1/model").exists());
    // Commas in brackets part no methods; a setting may have parts.
    let table = works(&mut compare("ia3,eas:layers=[0,1]:size=4,qlora:r=2:four_bit.code=fp4"));
    assert!(table.contains("| eas:layers=[0,1]:size=4 |"), "{table}");
    assert!(table.contains("| qlora:r=2:four_bit.code=fp4 |"), "{table}");
    assert!(out.join("compare.html").exists() && out.join("compare.json").exists());
    // What an entry says counts more than what is said of all.
    works(compare("ia3,ia3:train.steps=1").args(["--set", "train.steps=2"]));
    let log = fs::read_to_string(out.join("ia3_train.steps_1-1/metrics.jsonl")).unwrap();
    assert!(log.contains("\"step\":1,") && !log.contains("\"step\":2,"), "{log}");
    // What is finished is not made again.
    let made = || fs::metadata(out.join("ia3-2/summary.json")).unwrap().modified().unwrap();
    let before = made();
    works(&mut compare("ia3,prefix"));
    assert_eq!(made(), before);
    assert!(!out.join("ia3-2/checkpoints").exists());
    // With other settings it is another run.
    let why = ["ia3-1: holds another run", "train.steps was 2 and is 3", "--out"];
    refuses(compare("ia3").args(["--set", "train.steps=3"]), 1, &why);
    assert_eq!(made(), before);
    // Several at once say in files what one alone says on the screen.
    let many = dir.join("at-once");
    let at_once = |methods: &str| {
        let mut command = compare_in(&many, methods);
        command.args(["--jobs", "2"]);
        command
    };
    let table = works(&mut at_once("ia3,lora:r=2,lora:r=3"));
    assert!(table.contains("| lora:r=2 |") && table.contains("| lora:r=3 |"), "{table}");
    let said = fs::read_to_string(many.join("lora_r_3-2.log")).unwrap();
    assert!(said.contains("step 2/2"), "{said}");
    let done = at_once("ia3,lora:r=4,lora:r=900").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains("lora:r=900, seed"), "{said}");
    assert!(many.join("lora_r_4-1/summary.json").exists(), "{said}");
    // What diverges is told of, and not tried again.
    for _ in 0..2 {
        let table = works(&mut compare("ia3,full:optim.lr=1e30"));
        let row = table.lines().find(|line| line.starts_with("| full:")).unwrap();
        assert!(row.contains("1e30 | – | – |") && row.ends_with("| 0, 2 diverged |"), "{table}");
    }
    refuses(&mut compare("ia3,lorra"), 2, &["--method lorra: no such method"]);
    refuses(&mut compare("prefix"), 2, &["--lr ia3=0.01: write one of --methods"]);
}

#[test]
fn memory_is_planned() {
    let plan = |more: &[&str]| {
        let mut command = vlm();
        command.arg("plan").arg("--model").arg(model()).args(more);
        command
    };
    let table = works(&mut plan(&["--memory", "45MB"]));
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    // A small model needs next to nothing but the process.
    assert!(line("prefix").ends_with("  fits"), "{table}");
    assert!(works(&mut plan(&["--memory", "1MB"])).contains("  too much"));
    let peak = |more: &[&str], method: &str| -> f64 {
        let rows: serde_json::Value =
            serde_json::from_str(&works(plan(more).arg("--json"))).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["method"] == method).unwrap();
        row["peak_bytes"].as_f64().unwrap()
    };
    assert!(peak(&["--batch", "64"], "lora") > peak(&["--batch", "1"], "lora"));
    assert!(peak(&["--batch", "64"], "dora") > peak(&["--batch", "64"], "lora"));
    refuses(&mut plan(&["--memory", "8 apples"]), 2, &["`apples` is no unit"]);
    refuses(&mut plan(&["--answer", "999"]), 2, &["--answer is more than --tokens"]);
    // Of a dual encoder, both towers.
    let mut command = vlm();
    command.arg("plan").arg("--model").arg(common::model()).args(["--batch", "4", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&works(&mut command)).unwrap();
    assert!(rows[0]["method"] == "full" && rows[0]["kept_bytes"].as_f64().unwrap() > 0.0);
}
