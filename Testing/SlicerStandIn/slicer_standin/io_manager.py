"""``slicer.app.coreIOManager()``: loads and saves nodes and scenes through MRML's own storage nodes."""

from __future__ import annotations

from pathlib import Path

import slicer

# file type -> (node class, storage class, extensions); the longest matching extension decides
READERS = {
    "VolumeFile": ("vtkMRMLScalarVolumeNode", None, ".nrrd .nhdr .nii .nii.gz .mha .mhd .hdr .img .dcm .mgz"),
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", ".seg.nrrd .seg.nhdr .seg.vtm"),
    "MarkupsFile": (None, None, ".mrk.json .fcsv .json"),
    "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode", ".h5 .tfm .mat .txt"),
    "ModelFile": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode", ".vtp .vtk .stl .ply .obj .vtu"),
    "TextFile": ("vtkMRMLTextNode", "vtkMRMLTextStorageNode", ".text .xml"),
    "TableFile": ("vtkMRMLTableNode", "vtkMRMLTableStorageNode", ".csv .tsv"),
    "SceneFile": (None, None, ".mrml .mrb"),
}


class CoreIOManager:
    """The functions that slicer.util's load and save functions call."""

    def __init__(self, stand_in):
        self._stand_in = stand_in

    def fileType(self, filename):
        """Name of the file type that reads ``filename``."""
        best, length = "NoFile", 0
        for kind, (_, _, extensions) in READERS.items():
            for extension in extensions.split():
                if str(filename).lower().endswith(extension) and len(extension) > length:
                    best, length = kind, len(extension)
        return best

    def fileWriterFileType(self, node):
        """Name of the file type that writes ``node``."""
        for kind, (node_class, _, _) in READERS.items():
            if node_class and node.IsA(node_class):
                return kind
        return "MarkupsFile" if node.IsA("vtkMRMLMarkupsNode") else "NoFile"

    def loadNodes(self, kind, properties, loaded, messages=None):
        """Load a file; nodes go into the collection ``loaded``. Returns whether it worked."""
        path = Path(properties["fileName"])
        if not path.is_file():
            return False
        if kind == "SceneFile":
            return self.loadScene(str(path), clear=properties.get("clear", True))
        load = {
            "VolumeFile": self._load_volume,
            "SegmentationFile": self._load_segmentation,
            "MarkupsFile": self._load_markups,
        }
        node = load.get(kind, self._load_by_storage)(path, kind, properties)
        if node is None:
            return False
        if properties.get("name"):
            node.SetName(properties["name"])
        loaded.AddItem(node)
        return True

    def _name(self, path, properties) -> str:
        return properties.get("name") or path.name.split(".")[0]

    def _load_volume(self, path, kind, properties):
        options = 1 if properties.get("labelmap") else 0
        logic = slicer.modules.volumes.logic()
        node = logic.AddArchetypeVolume(str(path), self._name(path, properties), options)
        if node is not None and properties.get("show", True):
            slicer.util.setSliceViewerLayers(**({"label": node} if options else {"background": node}), fit=True)
        return node

    def _load_segmentation(self, path, kind, properties):
        return slicer.modules.segmentations.logic().LoadSegmentationFromFile(
            str(path), True, self._name(path, properties)
        )

    def _load_markups(self, path, kind, properties):
        identifier = slicer.modules.markups.logic().LoadMarkups(str(path), self._name(path, properties))
        return slicer.mrmlScene.GetNodeByID(identifier) if identifier else None

    def _load_by_storage(self, path, kind, properties):
        if kind == "TransformFile":
            return slicer.modules.transforms.logic().AddTransform(str(path), slicer.mrmlScene)
        if kind == "ModelFile":
            return slicer.modules.models.logic().AddModel(str(path))
        node_class, storage_class, _ = READERS.get(kind, (None, None, ""))
        if node_class is None:
            return None
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_class)
        storage.SetFileName(str(path))
        node = slicer.mrmlScene.AddNewNodeByClass(node_class, self._name(path, properties))
        if storage.ReadData(node):
            node.SetAndObserveStorageNodeID(storage.GetID())
            return node
        slicer.mrmlScene.RemoveNode(node)
        slicer.mrmlScene.RemoveNode(storage)
        return None

    def saveNodes(self, kind, properties, messages=None):
        """Write the node ``nodeID`` (or the scene) to ``fileName``."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self.saveScene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(properties["useCompression"])
        return bool(storage.WriteData(node))

    def exportNodes(self, identifiers, filenames, properties, harden=False, messages=None):
        """Write nodes without touching their own storage nodes."""
        if harden:
            raise NotImplementedError("exportNode(world=True) is not reproduced")
        for identifier, filename in zip(identifiers, filenames):
            node = slicer.mrmlScene.GetNodeByID(identifier)
            storage = node.CreateDefaultStorageNode()
            storage.UnRegister(None)
            storage.SetScene(slicer.mrmlScene)
            storage.SetFileName(str(filename))
            if not storage.WriteData(node):
                return False
        return True

    def loadScene(self, filename, clear=True):
        """Read a .mrml or .mrb file."""
        scene = slicer.mrmlScene
        if str(filename).endswith(".mrb"):
            return bool(scene.ReadFromMRB(str(filename), bool(clear)))
        scene.SetURL(str(filename))
        return bool(scene.Connect() if clear else scene.Import())

    def saveScene(self, filename):
        """Write a .mrml file (its data beside it must be saved already) or a .mrb bundle."""
        scene = slicer.mrmlScene
        if str(filename).endswith(".mrb"):
            return bool(scene.WriteToMRB(str(filename)))
        if str(filename).endswith(".mrml"):
            scene.SetURL(str(filename))
            scene.SetRootDirectory(str(Path(filename).parent))
            return bool(scene.Commit())
        raise NotImplementedError("saveScene() to a folder is not reproduced: give a .mrml or .mrb file")

    def extractKnownExtension(self, filename, node):
        """The extension of a file name, double ones included."""
        known = [item for _, _, extensions in READERS.values() for item in extensions.split()]
        return max((item for item in known if str(filename).lower().endswith(item)), key=len, default="")

    def fileWriterExtensions(self, node):
        """Format texts such as ``NRRD (.nrrd)``."""
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        formats = storage.GetSupportedWriteFileTypes()
        return [formats.GetValue(index) for index in range(formats.GetNumberOfValues())]
