/** Where the picture stands on the screen: scale and offset, in CSS pixels. */

const MOST = 32;

/** Zoom and pan. Screen = picture * scale + (x, y). */
export class View {
  constructor() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
  }

  /**
   * @param {{width: number, height: number}} picture
   * @param {{width: number, height: number}} room
   */
  fit(picture, room) {
    const margin = Math.min(28, room.width * 0.04);
    const across = Math.max(1, room.width - 2 * margin) / picture.width;
    const down = Math.max(1, room.height - 2 * margin) / picture.height;
    this.scale = Math.min(across, down, 4);
    this.x = (room.width - picture.width * this.scale) / 2;
    this.y = (room.height - picture.height * this.scale) / 2;
    this.fitted = true;
  }

  /**
   * @param {number} factor
   * @param {{x: number, y: number}} about a place on the screen that stays
   */
  zoom(factor, about) {
    const scale = Math.min(MOST, Math.max(0.02, this.scale * factor));
    const ratio = scale / this.scale;
    this.x = about.x - (about.x - this.x) * ratio;
    this.y = about.y - (about.y - this.y) * ratio;
    this.scale = scale;
    this.fitted = false;
  }

  /**
   * @param {number} dx
   * @param {number} dy
   */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
  }

  /**
   * @param {{x: number, y: number}} screen
   * @returns {{x: number, y: number}} in the picture
   */
  toPicture({ x, y }) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  /**
   * @param {{x: number, y: number}} point in the picture
   * @returns {{x: number, y: number}} on the screen
   */
  toScreen({ x, y }) {
    return { x: x * this.scale + this.x, y: y * this.scale + this.y };
  }
}
