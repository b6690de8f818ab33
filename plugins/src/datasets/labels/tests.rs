use super::super::class_list::IMAGENET;
use super::*;

/// A folder `val` with some files, and a list of labels.
struct Case {
    dir: tempfile::TempDir,
    classes: usize,
    class_list: Option<ClassList>,
    numbers: Option<Numbers>,
}

impl Case {
    fn new(files: &[&str], classes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join("val").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "not decoded here").unwrap();
        }
        Self { dir, classes, class_list: None, numbers: None }
    }

    fn named(self, list: &str) -> Self {
        let file = self.dir.path().join("classes.txt");
        std::fs::write(&file, list).unwrap();
        Self { class_list: Some(ClassList::read(&file).unwrap()), ..self }
    }

    fn imagenet(self) -> Self {
        Self { class_list: Some(ClassList::read(Path::new(IMAGENET)).unwrap()), ..self }
    }

    fn find(&self, list: &[u8]) -> Result<Found> {
        let file = self.dir.path().join("labels.txt");
        std::fs::write(&file, list).unwrap();
        let Self { classes, numbers, .. } = *self;
        Labels { file: &file, numbers, class_list: self.class_list.as_ref(), classes }
            .find(&self.dir.path().join("val"))
    }

    /// Names with classes in order.
    #[track_caller]
    fn is(&self, list: &str, want: &[(&str, usize)]) -> Vec<String> {
        let found = self.find(list.as_bytes()).unwrap();
        let root = self.dir.path().join("val");
        let got: Vec<_> =
            found.images.iter().map(|(f, c)| (f.strip_prefix(&root).unwrap().to_str().unwrap(), c.unwrap())).collect();
        assert_eq!(got, want);
        found.notes.iter().map(|n| n.replace(self.dir.path().to_str().unwrap(), "DIR")).collect()
    }

    #[track_caller]
    fn fails(&self, list: &str) -> String {
        let error = self.find(list.as_bytes()).expect_err("the list was accepted").to_string();
        error.replace(self.dir.path().to_str().unwrap(), "DIR")
    }
}

#[test]
fn names_with_labels() {
    let case = Case::new(&["b.JPEG", "a b.JPEG", "c/d.jpg"], 10);
    let want = [("a b.JPEG", 3), ("b.JPEG", 0), ("c/d.jpg", 9)];
    // In any order, with spaces in names, tabs, commas, a byte order mark, CRLF and blank lines.
    for list in [
        "b.JPEG 0\na b.JPEG 3\nc/d.jpg 9\n",
        "\u{feff}b.JPEG 0\r\n\r\na b.JPEG   3\r\nc/d.jpg 9",
        "c/d.jpg\t9\nb.JPEG\t0\na b.JPEG\t3\n",
        "filename,label\nc/d.jpg,9\n\"a b.JPEG\",3\nb.JPEG,\"0\"\n",
        "./b.JPEG 0\nval/a b.JPEG 3\nd.jpg 9\n",
        "b 0\na b 3\nd 9\n",
    ] {
        assert_eq!(case.is(list, &want), Vec::<String>::new());
    }
    let notes = case.is("b.JPEG 0\nd.jpg 1\n", &[("b.JPEG", 0), ("c/d.jpg", 1)]);
    assert_eq!(
        notes,
        ["1 of 3 images of DIR/val are not in the list DIR/labels.txt and do not count, such as a b.JPEG"]
    );
}

#[test]
fn labels_in_the_order_of_names() {
    let case = Case::new(&["b.png", "a.png", "a.txt", "c.png"], 5);
    let notes = case.is("4\n0\n2\n", &[("a.png", 4), ("b.png", 0), ("c.png", 2)]);
    assert_eq!(notes, ["passed over in DIR/val: 1 file that is no image (a.txt)"]);
    let error = case.fails("4\n0\n");
    assert!(error.contains("DIR/labels.txt: has 2 labels, but DIR/val has 3 images; a list without names"), "{error}");
}

#[test]
fn labels_that_are_names_of_classes() {
    let case = Case::new(&["a.png", "b.png", "c.png"], 3).named("great white shark\nn01440764 tench, Tinca tinca\n7\n");
    let want = [("a.png", 1), ("b.png", 0), ("c.png", 2)];
    let notes = case.is("a.png n01440764\nb.png great white shark\nc.png 7\n", &want);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("are names of the class list, such as '7' for class 2"), "{notes:?}");
    case.is("n01440764\ngreat white shark\n7\n", &want);
    // As in a table of solutions with boxes.
    let table = "ImageId,PredictionString\nb,great white shark\na,n01440764 85 1 499 272 n01440764 1 2 3 4\nc,7\n";
    case.is(table, &want);
    let error = case.fails("a.png n01440764\nb.png shark\nc.png 7\n");
    assert!(error.contains("line 2: 'shark' is neither the number of a class nor a name of the class list"), "{error}");
    assert!(case
        .fails("a.png 0\nb.png 7\nc.png n01440764\n")
        .contains("line 3: 'n01440764' is the name of a class, but other"));
    let error = Case::new(&["a.png"], 3).fails("a.png shark\n");
    assert!(
        error.contains("line 1: 'shark' is neither the number of a class nor a name, which needs `class_list`"),
        "{error}"
    );
}

#[test]
fn mistakes_are_named_with_their_lines() {
    let case = Case::new(&["a.png", "b.png"], 3);
    let error = |list: &str| case.fails(list);
    assert_eq!(error("a.png 0\nb.png 3\n"), "data DIR/labels.txt: line 2: the label 3 is not one of 0 to 2");
    assert_eq!(
        error("a.png 0\nb.png 1\n\n./a.png 2\n"),
        "data DIR/labels.txt: lists a.png twice, in line 1 and in line 4"
    );
    let missing = error("a.png 0\nx y.png 1\nz.png 1\n");
    assert_eq!(
        missing,
        "data DIR/labels.txt: line 2: the file 'x y.png' is not in DIR/val, as well as those of 1 more lines"
    );
    assert_eq!(error("a.png 0\nb.png\n"), "data DIR/labels.txt: line 2: there is no label after the name 'b.png'");
    assert!(error("a.png 0\nb.png -1\n").contains("line 2: '-1' is neither"), "{}", error("a.png 0\nb.png -1\n"));
    assert!(error("\n").contains("holds no label"));
    assert!(error("0\n18446744073709551617\n").contains("line 2: '18446744073709551617' is neither"));
}

#[test]
fn numbers_without_0_are_explained_or_refused() {
    let case = Case::new(&["a.png", "b.png"], 3);
    let notes = case.is("a.png 1\nb.png 3\n", &[("a.png", 0), ("b.png", 2)]);
    let want =
        "the labels of DIR/labels.txt, 1 to 3, are understood as classes that count from 1; `label_numbers` can say \
                otherwise (from_0)";
    assert_eq!(notes, [want]);
    let notes = case.is("a.png 1\nb.png 2\n", &[("a.png", 1), ("b.png", 2)]);
    assert!(notes[0].contains("1 to 2, are understood as class indices that count from 0"), "{notes:?}");
    let told = Case { numbers: Some(Numbers::From1), ..case };
    assert!(told.is("a.png 1\nb.png 2\n", &[("a.png", 0), ("b.png", 1)]).is_empty());
    assert!(told.fails("a.png 0\nb.png 2\n").contains("line 1: the label 0 is not one of 1 to 3"));
    let many = Case::new(&["a.png", "b.png"], 1000);
    assert!(many.fails("490\n1000\n").contains("either counted from 1 or the ids of ILSVRC2012"));
    let told = Case { numbers: Some(Numbers::Ilsvrc2012), ..many };
    assert!(told.fails("490\n1000\n").contains("need a class list with the 1000 synsets"));
}

/// The published labels of the first validation images, and the indices of their synsets in sorted order.
const IDS: [usize; 11] = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164, 649];
const INDICES: [usize; 11] = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332, 109];

#[test]
fn ids_of_the_development_kit_are_mapped_to_sorted_synsets() {
    let names: Vec<String> = (1..=11).map(|i| format!("ILSVRC2012_val_{i:08}.JPEG")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let case = Case::new(&names, 1000).imagenet();
    let want: Vec<(&str, usize)> = names.iter().copied().zip(INDICES).collect();
    let list: String = IDS.iter().map(|id| format!("{id}\n")).collect();
    let notes = case.is(&list, &want);
    assert!(notes[0].contains("13 to 822, are understood as ids of the development kit of ILSVRC2012"), "{notes:?}");
    let list: String = names.iter().zip(INDICES).map(|(name, index)| format!("{name} {index}\n")).collect();
    let notes = case.is(&list, &want);
    assert!(notes[0].contains("57 to 970, are understood as class indices that count from 0"), "{notes:?}");
    // With names and the id 1000, which is no index: the dumbbell.
    let list: String = names.iter().zip(IDS).skip(1).map(|(name, id)| format!("{name} {id}\n")).collect();
    let mut want = want;
    want[0].1 = 543;
    case.is(&format!("{list}{} 1000\n", names[0]), &want);
}

#[test]
fn every_id_belongs_to_one_synset() {
    let case = Case::new(&["a.png"], 1000).imagenet();
    let file = Path::new("labels.txt");
    let labels =
        Labels { file, numbers: Some(Numbers::Ilsvrc2012), class_list: case.class_list.as_ref(), classes: 1000 };
    let all: Vec<(usize, usize)> = (1..=1000).map(|id| (id, id)).collect();
    let (mut classes, note) = labels.classes_of_numbers(&all, false).unwrap();
    assert!(note.is_none());
    classes.sort_unstable();
    assert!(classes.into_iter().eq(0..1000));
}
