"""Real MRML slice and 3-D views, rendered off the screen; Qt widgets around them show the pictures."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

from .mrml_base import MRMLWidgetBase
from .widget_tools import Signal, qt, stand_in

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
)
SIZE = (320, 320)


def register_managers() -> None:
    """Tell the two factories which displayable managers a view has; once per process."""
    for factory, names in (
        (slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS),
        (slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS),
    ):
        for name in names:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)


class _View(MRMLWidgetBase):
    """A render window without a screen, its displayable managers and its interactor."""

    resized = Signal(QtCore.QSize)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setMinimumSize(64, 64)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*SIZE)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetSize(*SIZE)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()

    def _start_group(self, factory, application_logic, node, style):
        factory.SetMRMLApplicationLogic(application_logic)
        self._style = style
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyle())  # the MRML style asks it for the renderer
        style.SetInteractor(self._interactor)
        self._group.Initialize(factory, self._renderer)
        style.SetDisplayableManagers(self._group)
        self._group.SetMRMLDisplayableNode(node)
        self._interactor.Enable()

    def renderWindow(self):
        """The VTK render window."""
        return self._window

    def renderer(self):
        """The renderer of the scene's content."""
        return self._renderer

    def interactor(self):
        """The VTK interactor; send it mouse events."""
        return self._interactor

    def interactorStyle(self):
        """The MRML interactor style, as slicer.util.clickAndDrag() wants it."""
        return self._style

    def displayableManagerByClassName(self, name):
        """A displayable manager of this view, or None."""
        return self._group.GetDisplayableManagerByClassName(name)

    def resize_view(self, width: int, height: int) -> None:
        """Set the size of the picture in pixels."""
        if self.__dict__.get("_window") is None:
            return
        self._window.SetSize(width, height)
        self._interactor.SetSize(width, height)
        self._resized(width, height)
        self.resized.emit(QtCore.QSize(width, height))

    def _resized(self, width, height):
        pass

    def forceRender(self):
        """Render now."""
        self._window.Render()
        self.update()

    scheduleRender = forceRender

    def picture(self) -> np.ndarray:
        """Render and return (rows, columns, 3) uint8, first row at the top."""
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.SetInputBufferTypeToRGB()
        grabber.Update()
        image = grabber.GetOutput()
        columns, rows, _ = image.GetDimensions()
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        return np.ascontiguousarray(values.reshape(rows, columns, 3)[::-1])

    def resizeEvent(self, event):
        """The picture gets the size of the widget."""
        self.resize_view(event.size().width(), event.size().height())

    def paintEvent(self, event):
        """A new picture."""
        picture = self.picture()
        rows, columns, _ = picture.shape
        image = QtGui.QImage(picture.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
        painter = QtGui.QPainter(self)
        painter.drawImage(QtWidgets.QWidget.rect(self), image)
        painter.end()

    def finalize(self):
        """Let go of the scene and of OpenGL."""
        self._group.SetMRMLDisplayableNode(None)
        self._group.SetRenderer(None)
        self._window.Finalize()


@stand_in
class qMRMLSliceView(_View):
    """2-D view: the blended slice image below, displayable managers above."""

    def _start(self, application_logic, slice_logic):
        self._logic = slice_logic
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._mapper, self._actor = mapper, vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.SetVisibility(0)
        self._actor.SetLayerNumber(0)
        self._renderer.AddViewProp(self._actor)
        camera = self._renderer.GetActiveCamera()
        camera.ParallelProjectionOn()
        style = slicer.vtkMRMLSliceViewInteractorStyle()
        style.SetSliceLogic(slice_logic)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        slice_logic.SetDisplayableManagerGroup(self._group)
        self._start_group(factory, application_logic, slice_logic.GetSliceNode(), style)
        slice_logic.AddObserver("ModifiedEvent", lambda *_: self._image_changed())
        self._resized(*SIZE)
        self._image_changed()

    def _image_changed(self):
        connection = self._logic.GetImageDataConnection()
        if connection is not None:
            self._mapper.SetInputConnection(connection)
        else:
            self._mapper.RemoveAllInputConnections(0)
        self._actor.SetVisibility(1 if connection is not None else 0)

    def _resized(self, width, height):
        if "_logic" in self.__dict__:
            self._logic.ResizeSliceNode(width, height)

    def mrmlSliceNode(self):
        """The slice node."""
        return self._logic.GetSliceNode()

    def convertRASToXYZ(self, ras):
        """View coordinates (x to the right, y up, z light box) of a point in RAS."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.mrmlSliceNode().GetXYToRAS(), inverse)
        return list(inverse.MultiplyPoint([*ras, 1.0])[:3])

    def convertDeviceToXYZ(self, xy):
        """View coordinates of a device position (both have their origin at the lower left here)."""
        return [xy[0], xy[1], 0.0]

    def convertXYZToRAS(self, xyz):
        """RAS of view coordinates."""
        return list(self.mrmlSliceNode().GetXYToRAS().MultiplyPoint([*xyz, 1.0])[:3])


@stand_in
class qMRMLThreeDView(_View):
    """3-D view."""

    def _start(self, application_logic, view_node):
        self._node = view_node
        style = slicer.vtkMRMLThreeDViewInteractorStyle()
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self._start_group(factory, application_logic, view_node, style)
        view_node.Modified()  # the managers take the background color from the next modification

    def mrmlViewNode(self):
        """The view node."""
        return self._node

    def cameraNode(self):
        """The camera node of this view."""
        return slicer.modules.cameras.logic().GetViewActiveCameraNode(self._node)

    def resetFocalPoint(self):
        """Look at the center of everything."""
        self.resetCamera()

    def resetCamera(self, *_):
        """Show everything."""
        self._renderer.ResetCamera()

    def rotateToViewAxis(self, *_):
        """Look along an axis; only a full reset is reproduced."""
        self.resetCamera()


@stand_in
class qMRMLSliceWidget(MRMLWidgetBase):
    """Slice view, its logic and its nodes."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._view = qMRMLSliceView()
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._view)

    def _start(self, application_logic, scene, slice_node):
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceNode(slice_node)
        application_logic.GetSliceLogics().AddItem(self._logic)
        self.setObjectName(f"qMRMLSliceWidget{slice_node.GetLayoutName()}")
        self.setMRMLScene(scene)
        self._view._start(application_logic, self._logic)

    def sliceView(self):
        """The view."""
        return self._view

    def sliceLogic(self):
        """The slice logic."""
        return self._logic

    def mrmlSliceNode(self):
        """The slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        """The node that names background, foreground and label volume."""
        return self._logic.GetSliceCompositeNode()

    def sliceController(self):
        """A controller without buttons: fitSliceToBackground and friends."""
        return self

    def interactorStyle(self):
        """The MRML interactor style, as slicer.util.clickAndDrag() wants it."""
        return self._view.interactorStyle()

    def fitSliceToBackground(self):
        """Show the whole background volume."""
        self._logic.FitSliceToBackground()

    def setSliceOffsetValue(self, offset):
        """Move the slice along its normal."""
        self._logic.SetSliceOffset(offset)

    def setSliceVisible(self, visible):
        """Show the slice in 3-D."""
        self.mrmlSliceNode().SetSliceVisible(visible)

    def setSliceLink(self, linked):
        """Link the slice views."""
        self.mrmlSliceCompositeNode().SetLinkedControl(linked)


@stand_in
class qMRMLThreeDWidget(MRMLWidgetBase):
    """3-D view and its node."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._view = qMRMLThreeDView()
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._view)

    def _start(self, application_logic, scene, view_node):
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        self._logic.AddViewNode(view_node.GetLayoutName())
        application_logic.GetViewLogics().AddItem(self._logic)
        self.setMRMLScene(scene)
        self._view._start(application_logic, view_node)

    def threeDView(self):
        """The view."""
        return self._view

    def threeDController(self):
        """A controller without buttons."""
        return self._view

    def viewLogic(self):
        """The view logic."""
        return self._logic

    def mrmlViewNode(self):
        """The view node."""
        return self._view.mrmlViewNode()
