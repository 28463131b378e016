// Browsers refuse workers to pages that come from the file system, and the search of this site is a
// worker. There it runs in a hidden frame instead. The name of this file keeps Material's offline
// plugin from loading such a script from a network.
(() => {
  if (location.protocol !== "file:") return

  function load(frame, url) {
    return new Promise((resolve, reject) => {
      const script = frame.createElement("script")
      script.src = url
      script.onload = resolve
      script.onerror = () => reject(new Error(`cannot load ${url}`))
      frame.head.appendChild(script)
    })
  }

  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const element = document.createElement("iframe")
      element.hidden = true
      document.body.appendChild(element)
      const inside = element.contentWindow
      inside.document.open()
      inside.document.write("<!doctype html><html><head></head></html>")
      inside.document.close()
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => load(inside.document, next)), Promise.resolve())
      this.loaded = load(inside.document, url) // messages wait until it listens
      this.inside = inside
    }

    postMessage(data) {
      this.loaded.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
})()
