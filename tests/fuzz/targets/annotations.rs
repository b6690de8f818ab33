//! Files with annotations in COCO's format.

use super::{a_few_times, folder, registries, write, Target};
use qdrop_core::dataset::{DatasetRequest, Split};
use qdrop_core::params::Params;
use qdrop_core::target::{Labels, TargetSpec};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "annotations", seeds, read, allowed: a_few_times };

fn seeds() -> Vec<Vec<u8>> {
    let images = r#"[{"license": 4, "file_name": "1.ppm", "height": 1, "width": 1, "id": 139},
        {"file_name": "2.ppm", "height": 1, "width": 1, "id": 7}]"#;
    let one = r#"{"segmentation": [[0.5, 1, 2.5e0, 1]], "area": 702.1, "iscrowd": 0, "image_id": 139, "bbox": [2, 1.5, 3, 4], "category_id": 3, "id": 8}"#;
    let crowd = r#"{"segmentation": {"counts": [1, 2], "size": [1, 3]}, "area": 1, "iscrowd": 1, "image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 1, "id": 9}"#;
    let categories = r#"[{"supercategory": "a", "id": 3, "name": "b"}, {"id": 1, "name": "\u00e4"}]"#;
    let file = |annotations: &str| {
        format!(r#"{{"info": {{}}, "images": {images}, "annotations": {annotations}, "categories": {categories}}}"#)
    };
    [format!("[{one}]"), format!("[{crowd}, {one}]"), "[]".to_string()]
        .iter()
        .map(|text| file(text).into_bytes())
        .collect()
}

fn open() -> TempDir {
    let folder = folder();
    std::fs::create_dir(folder.path().join("val2017")).unwrap();
    for name in ["1", "2"] {
        write(&folder, &format!("val2017/{name}.ppm"), b"P6 1 1 255 \x01\x02\x03");
    }
    folder
}

thread_local!(static FOLDER: TempDir = open());

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|root| {
        write(root, "all.json", bytes);
        let params = "{evaluation: {annotations: all.json}, short: 1, long: 1, size_divisor: 2}";
        let params = Params::new("data.params", serde_yaml::from_str(params).unwrap());
        let mut accepted = false;
        for labels in [Labels::InOrder { classes: 2 }, Labels::ByCategory { below: 4 }] {
            let targets = TargetSpec::Objects { labels };
            let root = Some(root.path().into());
            let request = DatasetRequest {
                split: Split::Evaluation,
                seed: 0,
                input: [3, 8, 8],
                targets,
                root,
                base_dir: "".into(),
            };
            if let Ok(dataset) = registries().datasets.get("coco", "data").unwrap().build(&params, &request) {
                accepted = true;
                for i in 0..dataset.len() {
                    if let Ok(sample) = dataset.sample(i) {
                        assert!(sample.image.len() == 12 && targets.contains(&sample.target));
                    }
                }
            }
        }
        accepted
    })
}
