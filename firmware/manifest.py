"""For freezing the package into a firmware image: `include("path/to/firmware/manifest.py")`."""

package("edge_device", opt=3)  # noqa: F821  (a name that MicroPython's manifest language provides)
package("edge_sensors", opt=3)  # noqa: F821
