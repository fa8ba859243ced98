"""Which nodes the module made, and where they stand in the subject hierarchy."""

from __future__ import annotations

import slicer

from DeepDiffRegLib.errors import InputError

from .spaces import the_scene

OUTPUT_ATTRIBUTE = "DeepDiffReg.Output"
"""Attribute of every node that the module makes; its value says what the node is."""


def is_output(node) -> bool:
    """Whether the module made this node, and may therefore update it."""
    return node is not None and node.GetAttribute(OUTPUT_ATTRIBUTE) is not None


def new_node(kind: str, name: str, role: str, scene=None):
    """Add a node of class ``kind`` under a unique name, marked as the module's own."""
    scene = the_scene(scene)
    node = scene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(name))
    # Before it is added: selectors that filter by the attribute look at a node once.
    node.SetAttribute(OUTPUT_ATTRIBUTE, role)
    return scene.AddNode(node)


def private_node(kind: str, name: str, role: str, scene=None):
    """A node for display only: hidden in selectors, not saved."""
    node = new_node(kind, name, role, scene)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return node


def own(node, kind: str, name: str, role: str, scene=None):
    """``node`` when the module made it as such, a new one when it is None.

    Raises InputError for a node that somebody else made: it is never overwritten.
    """
    if node is None:
        return new_node(kind, name, role, scene)
    if not is_output(node) or not node.IsA(kind):
        raise InputError(
            f"{role}: {node.GetName()!r} was not made by this module and is not overwritten; use a new node"
        )
    return node


def remove(node) -> None:
    """Take one of the module's own nodes, and its display nodes, out of the scene; others are left alone."""
    if node is None or node.GetScene() is None or not is_output(node):
        return
    scene = node.GetScene()
    displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())] if displayable(node) else []
    scene.RemoveNode(node)
    for display in displays:
        if display is not None and display.GetScene() is not None:
            scene.RemoveNode(display)


def displayable(node) -> bool:
    """Whether the node can have display nodes."""
    return node.IsA("vtkMRMLDisplayableNode")


def find(role: str, scene=None, reference: tuple[str, object] | None = None):
    """The first node of that role; reference: (node reference role, node it must refer to). None when there is none."""
    scene = the_scene(scene)
    for i in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(i)
        if node.GetAttribute(OUTPUT_ATTRIBUTE) == role and (
            reference is None or node.GetNodeReference(reference[0]) is reference[1]
        ):
            return node
    return None


def place_in_study(node, like) -> bool:
    """Put ``node`` beside ``like`` in the subject hierarchy: in its study, else in its folder.

    False when there is nothing to do: no hierarchy, ``like`` is not in it, or ``node`` is there already.
    """
    if node is None or like is None:
        return False
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return False
    nowhere = hierarchy.GetInvalidItemID()
    place = hierarchy.GetItemByDataNode(like)
    if place == nowhere:
        return False
    study = hierarchy.GetItemAncestorAtLevel(place, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy())
    parent = study if study not in (nowhere, hierarchy.GetSceneItemID()) else hierarchy.GetItemParent(place)
    item = hierarchy.GetItemByDataNode(node)
    if item == nowhere:
        return hierarchy.CreateItem(parent, node) != nowhere
    if hierarchy.GetItemParent(item) == parent:
        return False
    hierarchy.SetItemParent(item, parent)
    return True
