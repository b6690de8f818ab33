//! Tests of the reader of annotations.

use super::*;

const IMAGES: &str = r#"{"id": 9, "file_name": "b.jpg", "width": 5, "height": 4, "license": 1}, {"height": 2, "width": 3, "id": 4, "file_name": "a.jpg"}"#;
const ANNOTATIONS: &str = r#"{"segmentation": [[1, 2.5]], "id": 7, "image_id": 9, "category_id": 3, "bbox": [0.5, 1, 2, 0], "area": 1.25, "iscrowd": 0},
    {"id": 3, "image_id": 4, "category_id": 1, "bbox": [0, 0, 3, 2], "area": 6, "iscrowd": 1, "segmentation": {"counts": [6], "size": [2, 3]}},
    {"id": 2, "image_id": 9, "category_id": 1, "bbox": [-1, 0, 3, 2], "area": 0, "iscrowd": 0}"#;
const CATEGORIES: &str = r#"{"id": 3, "name": "cat"}, {"supercategory": "x", "id": 1, "name": "dog"}"#;

fn text(images: &str, annotations: &str, categories: &str) -> String {
    format!(r#"{{"info": {{}}, "images": [{images}], "annotations": [{annotations}], "categories": [{categories}]}}"#)
}

fn read(text: &str) -> Result<Instances> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("instances.json");
    std::fs::write(&file, text).unwrap();
    Instances::read(&file)
}

#[test]
fn pictures_are_sorted_and_objects_keep_their_order() {
    let it = read(&text(IMAGES, ANNOTATIONS, CATEGORIES)).unwrap();
    let pictures: Vec<_> = it.pictures.iter().map(|p| (p.id, &*p.file_name, p.width, p.height)).collect();
    assert_eq!(pictures, [(4, "a.jpg", 3, 2), (9, "b.jpg", 5, 4)]);
    let categories: Vec<_> = it.categories.iter().map(|c| (c.id, &*c.name)).collect();
    assert_eq!(categories, [(3, "cat"), (1, "dog")]);
    let objects = |id| it.objects_in(id).iter().map(|o| (o.id, o.category, o.bbox, o.area, o.crowd));
    assert!(objects(4).eq([(3, 1, [0.0, 0.0, 3.0, 2.0], 6.0, true)]));
    let two = [(7, 3, [0.5, 1.0, 2.0, 0.0], 1.25, false), (2, 1, [-1.0, 0.0, 3.0, 2.0], 0.0, false)];
    assert!(objects(9).eq(two));
    assert!([0, 5, 10].iter().all(|id| it.objects_in(*id).is_empty()));
}

/// The message for the file with `old` replaced by `new`, without the file's name and the place.
fn refused(old: &str, new: &str) -> String {
    let all = text(IMAGES, ANNOTATIONS, CATEGORIES);
    assert!(all.contains(old), "{old}");
    let message = read(&all.replacen(old, new, 1)).unwrap_err().to_string();
    assert!(message.starts_with("data /") && message.contains("/instances.json: "), "{message}");
    let message = message.split_once("instances.json: ").unwrap().1;
    let message = message.strip_prefix("cannot be read as annotations: ").unwrap_or(message);
    message.split(" at line ").next().unwrap().to_string()
}

#[test]
fn wrong_values_are_named_with_their_entry_and_key() {
    let cases = [
        (r#""id": 7"#, r#""id": 0"#, "annotation 0: `id` is 0, not a whole number from 1 on; number the annotations anew"),
        (r#""id": 7"#, r#""id": "7""#, r#"one annotation: `id` is "7", not a whole number from 0 on"#),
        (r#""image_id": 9, "#, "", "annotation 7 has no `image_id`, which is a whole number from 0 on"),
        (r#""category_id": 3"#, r#""category_id": -3"#, "annotation 7: `category_id` is -3, not a whole number from 0 on"),
        ("[0.5, 1, 2, 0]", "[0.5, 1, 2]", "annotation 7: `bbox` is [0.5,1,2], not four numbers: left, top, width and height"),
        (
            "[0.5, 1, 2, 0]",
            "[0.5, 1, 2, -1]",
            "annotation 7: `bbox` is [0.5,1,2,-1], not left, top, width and height of a box; its width or height is negative",
        ),
        ("1.25", "-0.5", "annotation 7: `area` is -0.5, not a number from 0 on"),
        ("1.25", r#"{"a": 1}"#, r#"annotation 7: `area` is {"a":1}, not a number from 0 on"#),
        (r#""iscrowd": 1"#, r#""iscrowd": 2"#, "annotation 3: `iscrowd` is 2, not 0 or 1"),
        (r#", "iscrowd": 1"#, "", "annotation 3 has no `iscrowd`, which is 0 or 1"),
        (r#""b.jpg""#, "12", "picture 9: `file_name` is 12, not a text that is not empty"),
        (r#""width": 5"#, r#""width": 0"#, "picture 9: `width` is 0, not a number of pixels from 1 on"),
        (r#""height": 4"#, r#""height": 4.5"#, "picture 9: `height` is 4.5, not a whole number from 0 on"),
        (r#""id": 9, "file"#, r#""file"#, "one picture has no `id`, which is a whole number from 0 on"),
        (r#""name": "cat""#, r#""name": null"#, "category 3 has no `name`, which is a text that is not empty"),
    ];
    for (old, new, message) in cases {
        assert_eq!(refused(old, new), message);
    }
    let long = format!("\"area\": \"{}\"", "x".repeat(100));
    let shown = format!("annotation 7: `area` is \"{}..., not a number from 0 on", "x".repeat(59));
    assert_eq!(refused("\"area\": 1.25", &long), shown);
}

#[test]
fn what_does_not_fit_together_is_named() {
    let cases = [
        (r#""id": 4"#, r#""id": 9"#, "two entries of `images` have the id 9; ids must be unique, change or remove one"),
        (
            r#""id": 2"#,
            r#""id": 7"#,
            "two entries of `annotations` have the id 7; ids must be unique, change or remove one",
        ),
        (
            r#""id": 1,"#,
            r#""id": 3,"#,
            "two entries of `categories` have the id 3; ids must be unique, change or remove one",
        ),
        (
            r#""image_id": 4"#,
            r#""image_id": 5"#,
            "annotation 3: its `image_id` 5 is not in `images`; remove the annotation or add what it refers to",
        ),
        (
            r#""category_id": 3"#,
            r#""category_id": 2"#,
            "annotation 7: its `category_id` 2 is not in `categories`; remove the annotation or add what it refers to",
        ),
        (IMAGES, "", "`images` is an empty list; use a file with pictures, boxes and categories"),
        (ANNOTATIONS, "", "`annotations` is an empty list; use a file with pictures, boxes and categories"),
        (CATEGORIES, "", "`categories` is an empty list; use a file with pictures, boxes and categories"),
    ];
    for (old, new, message) in cases {
        assert_eq!(refused(old, new), message);
    }
}

#[test]
fn files_of_other_kinds_are_refused() {
    let all = text(IMAGES, ANNOTATIONS, CATEGORIES);
    let message = |text: &str| read(text).unwrap_err().to_string();
    for cut in [1, 30, all.len() - 1] {
        let error = message(&all[..cut]);
        assert!(error.ends_with("; the file is incomplete; copy or download it again"), "{error}");
    }
    let cases = [
        ("[]", "invalid length 0"),
        ("hello", "expected value at line 1 column 1"),
        (r#"{"images": [1]}"#, "invalid type: integer `1`, expected a picture, which has the keys `id`, `file_name`,"),
        (r#"{"images": [], "categories": []}"#, "missing field `annotations`"),
        (&all.replace("1.25", "NaN"), "expected value at line 1"),
        (&all.replace("1.25", "1e999"), "number out of range at line 1"),
        (&format!("{all} x"), "trailing characters"),
    ];
    for (text, want) in cases {
        let error = message(text);
        assert!(error.contains(want), "{error}");
        assert!(
            error.ends_with("; correct it, or use a file in the format of COCO's `instances_val2017.json`"),
            "{error}"
        );
    }
    let error = Instances::read(Path::new("/nowhere/x.json")).unwrap_err().to_string();
    assert!(error.starts_with("cannot open /nowhere/x.json: "), "{error}");
    let error = Instances::read(&std::env::temp_dir()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read "), "{error}");
}
