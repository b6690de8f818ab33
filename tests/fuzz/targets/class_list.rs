//! Class lists, and lists of labels, beside a folder of images.

use super::{a_few_times, folder, write, Target};
use qdrop_core::target::Target as Wanted;
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "class_list", seeds, read, allowed: a_few_times };

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "cat\ndog\n",
        "\u{feff}cat\r\ndog\r\n",
        "cat a small animal\ndog\tanother\n",
        "0.ppm 1\n1.ppm 0\n",
        "1\n0\n",
        "dog\ncat\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn open() -> TempDir {
    let folder = folder();
    for (i, class) in ["cat", "dog"].iter().enumerate() {
        std::fs::create_dir_all(folder.path().join("val").join(class)).unwrap();
        write(&folder, &format!("val/{class}/{i}.ppm"), b"P6 1 1 255 \x01\x02\x03");
    }
    std::fs::create_dir(folder.path().join("flat")).unwrap();
    for i in 0..2 {
        write(&folder, &format!("flat/{i}.ppm"), b"P6 1 1 255 \x01\x02\x03");
    }
    folder
}

thread_local!(static FOLDER: TempDir = open());

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|root| {
        let list = write(root, "list.txt", bytes);
        let mut accepted = false;
        for (folder, list_of) in [("val", "class_list"), ("flat", "labels")] {
            let text = format!("{{val: {folder}, {list_of}: {}}}", list.display());
            if let Ok(dataset) = super::open("image_folder", &text, root, [3, 8, 8], 2) {
                accepted = true;
                for i in 0..dataset.len() {
                    assert!(matches!(dataset.sample(i).unwrap().target, Wanted::Class(0 | 1)));
                }
            }
        }
        accepted
    })
}
